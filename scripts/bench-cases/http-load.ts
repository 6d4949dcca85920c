import { connect, type Socket } from 'node:net'

export interface LoadResult {
  /** Milliseconds of each request, in ascending order. */
  waits: number[]
  /** Milliseconds from the first request to the last answer. */
  took: number
}

/**
 * Asks `url` again and again, `clients` requests at once, each on a connection that stays, until there are `answers`.
 * Reads no more of HTTP than the answers of our own server need, so that the client costs little beside it.
 * @throws {Error} for every answer but a 200 with a Content-Length
 */
export async function load(
  url: string,
  headers: Readonly<Record<string, string>>,
  { clients, answers }: { clients: number; answers: number },
): Promise<LoadResult> {
  const { hostname, port, host, pathname, search } = new URL(url)
  const lines = Object.entries({ host, ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  const request = Buffer.from(`GET ${pathname}${search} HTTP/1.1\r\n${lines.join('')}\r\n`)
  const waits: number[] = []
  let asked = 0
  const started = performance.now()
  const client = (): Promise<void> =>
    new Promise((resolve, reject) => {
      let sent = 0
      const socket = connect({ host: hostname, port: Number(port), noDelay: true })
      const next = (): void => {
        if (asked >= answers) return void socket.end(() => resolve())
        asked++
        sent = performance.now()
        socket.write(request)
      }
      readAnswers(socket, reject, () => {
        waits.push(performance.now() - sent)
        next()
      })
      socket.once('connect', next).once('error', reject)
    })
  await Promise.all(Array.from({ length: clients }, client))
  return { waits: waits.sort((a, b) => a - b), took: performance.now() - started }
}

function readAnswers(socket: Socket, fail: (error: Error) => void, answered: () => void): void {
  let received = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    received += chunk
    const end = received.indexOf('\r\n\r\n')
    if (end < 0) return
    const length = /\r\ncontent-length: (\d+)\r\n/i.exec(received)?.[1]
    if (!received.startsWith('HTTP/1.1 200 ') || length === undefined) {
      socket.destroy()
      return fail(new Error(`the server answered: ${received.slice(0, 200)}`))
    }
    const whole = end + 4 + Number(length)
    if (received.length < whole) return
    received = received.slice(whole)
    answered()
  })
}
