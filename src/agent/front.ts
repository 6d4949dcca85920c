import { rmSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { Logger } from '../log.ts'
import { EngineLink, type EngineProcess } from './engine-link.ts'
import { sweepMeetingPlaces } from './meeting-place.ts'
import { runSession, type SessionEnd } from './session.ts'
import { becomeFront, joinFront, type Pipes } from './siblings.ts'

export interface FrontOptions {
  /** This process's own conversation with git-lfs. */
  own: () => Pipes
  /** Where the agents of this git-lfs process meet; undefined: each works for itself. */
  place: string | undefined
  spawnEngine: () => EngineProcess
  log: Logger
  /** Stops everything: a signal from the terminal. */
  signal: AbortSignal
}

/**
 * One agent, from its start to its end. The first of a git-lfs process becomes the front of all: it answers git-lfs in
 * every one of their conversations, and one engine, a process of its own, moves the bytes for all of them. The others
 * hand their pipes over and end, or pass everything on where the system knows no better.
 *
 * The front itself does little and holds little, so that whatever may end the engine does not end it: git-lfs gives up
 * every object of an agent that is gone (git-lfs tq/custom.go).
 */
export async function runFront(options: FrontOptions): Promise<void> {
  const { place, own, log, signal } = options
  const engine = new EngineLink({ spawn: options.spawnEngine, log })
  const sessions = new Set<Promise<unknown>>()
  let ended: SessionEnd = 'finished'
  const serve = ({ input, output }: Pipes): void => {
    const conversation = runSession({
      input,
      output,
      log,
      signal,
      open: async (init) => {
        log.debug({ operation: init.operation, concurrent: init.concurrent }, 'init')
        // After the answer to init: git-lfs starts no other agent before it has that.
        engine.start()
        return engine.transfer
      },
    })
    const session = conversation.then((how) => {
      if (how === 'cut') ended = 'cut'
      sessions.delete(session)
      // What was written last may still be on its way, or nobody may read it any more.
      output.end()
      setTimeout(() => output.destroy(), LAST_WORDS).unref()
      if (!Object.is(input, output)) input.destroy()
    })
    sessions.add(session)
  }
  let front = place === undefined ? undefined : await becomeFront(place, serve)
  if (place !== undefined && front === undefined) {
    const joined = await joinFront(place)
    if (joined === 'adopted') return
    if (joined !== undefined) return relay(own(), joined)
    // What is there belonged to a front that was killed.
    rmSync(place, { force: true })
    front = await becomeFront(place, serve)
  }
  serve(own())
  while (sessions.size > 0) await Promise.race(sessions)
  front?.close()
  await engine.close(ended)
  if (place !== undefined) sweepMeetingPlaces(place)
}

/** Milliseconds that the last answer of a conversation may take to be read. */
const LAST_WORDS = 1000

/** Passes everything on between git-lfs and the front, both ways, until either end closes. */
async function relay({ input, output }: Pipes, socket: Socket): Promise<void> {
  await new Promise<void>((resolve) => {
    input.pipe(socket)
    socket.pipe(output)
    for (const stream of [input, output, socket]) stream.on('error', () => {})
    socket.on('close', resolve)
    output.on('close', () => socket.destroy())
  })
  input.destroy()
}
