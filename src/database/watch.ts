import type { Database } from './connect.ts'

export interface WatchOptions {
  /** Called once, when the database has not answered for `patience`. */
  lost: (error: unknown) => void
  /** Milliseconds between two checks. */
  every?: number
  /** Milliseconds that the database may be away. */
  patience?: number
  /** Milliseconds, never going back. */
  now?: () => number
}

/** Asks the database now and then whether it is there. Gives the function that stops it. */
export function watchDatabase(database: Pick<Database, 'check'>, options: WatchOptions): () => void {
  const { lost, every = 2_000, patience = 10_000, now = () => performance.now() } = options
  let answered = now()
  let timer: NodeJS.Timeout
  let stopped = false
  const look = async (): Promise<void> => {
    try {
      await database.check()
      answered = now()
    } catch (error) {
      if (!stopped && now() - answered > patience) {
        stopped = true
        lost(error)
      }
    }
    if (!stopped) timer = setTimeout(look, every)
  }
  timer = setTimeout(look, every)
  return () => {
    stopped = true
    clearTimeout(timer)
  }
}
