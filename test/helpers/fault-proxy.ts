import { once } from 'node:events'
import http from 'node:http'
import type { Socket } from 'node:net'

export interface SeenRequest {
  method: string
  url: string
  /** How many requests were seen before this one. */
  index: number
}

/** What to do to a request instead of, or while, passing it on; undefined: pass it on. */
export type Fault =
  | { kind: 'answer'; status: number; headers?: Record<string, string>; body?: string }
  /** Passes on and closes the connection after so many bytes of the answer's body. */
  | { kind: 'cut'; after: number }
  /** Passes on and sends nothing more after so many bytes of the answer's body. */
  | { kind: 'stall'; after: number }
  /** Passes on with one bit of the answer's body turned. */
  | { kind: 'flip'; at: number }
  /** Passes on nothing until it is time. */
  | { kind: 'wait'; until: () => boolean }
  /** Resets the connection before answering. */
  | { kind: 'reset' }
  /** Passes the request on, and resets the connection instead of answering. */
  | { kind: 'lose-answer' }
  /** Reads so many bytes of the request's body, then nothing more, and never answers. */
  | { kind: 'swallow'; after: number }
  /** Passes bytes of the request's body on at most at this rate, bytes a second. */
  | { kind: 'slow'; rate: number }
  /** Passes bytes of the answer's body on at most at this rate, bytes a second, which may change; 0 holds them back. */
  | { kind: 'pace'; rate: number }

export interface FaultProxy {
  url: string
  /** Requests so far, in order. */
  requests: SeenRequest[]
  /** Bytes of request bodies that came in. */
  received: number
  /** Bytes of answer bodies that went out. */
  sent: number
  /** Requests that came and were not answered to their end yet. */
  inFlight: number
  fault: (request: SeenRequest) => Fault | undefined
  close(): Promise<void>
}

/** An HTTP proxy in front of a real server that does to chosen requests what bad lines and stores do. */
export async function faultProxy(target: string): Promise<FaultProxy> {
  const { hostname, port } = new URL(target)
  const agent = new http.Agent({ keepAlive: true })
  const sockets = new Set<Socket>()
  const server = http.createServer((incoming, outgoing) => {
    const seen = { method: incoming.method ?? '', url: incoming.url ?? '', index: proxy.requests.length }
    proxy.requests.push(seen)
    proxy.inFlight++
    outgoing.once('close', () => proxy.inFlight--)
    const fault = proxy.fault(seen)
    incoming.on('data', (chunk: Buffer) => {
      proxy.received += chunk.length
    })
    outgoing.on('error', () => {})
    if (fault?.kind === 'answer') {
      // Behind the whole body, as stores do: a connection closed earlier loses the answer for its sender.
      incoming.resume().on('end', () => outgoing.writeHead(fault.status, fault.headers).end(fault.body ?? ''))
      return
    }
    if (fault?.kind === 'swallow') {
      let read = 0
      incoming.on('data', (chunk: Buffer) => {
        read += chunk.length
        if (read >= fault.after) incoming.pause()
      })
      return
    }
    if (fault?.kind === 'reset') {
      incoming.socket.resetAndDestroy()
      return
    }
    const forward = http.request(
      { hostname, port, method: incoming.method, path: incoming.url, headers: incoming.headers, agent },
      (answer) => {
        if (fault?.kind === 'lose-answer') {
          answer.resume()
          answer.on('end', () => incoming.socket.resetAndDestroy())
          return
        }
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
        let passed = 0
        answer.on('data', (chunk: Buffer) => {
          let bytes = chunk
          if (fault?.kind === 'cut' || fault?.kind === 'stall') {
            if (passed >= fault.after) return
            bytes = chunk.subarray(0, fault.after - passed)
          }
          if (fault?.kind === 'flip' && fault.at >= passed && fault.at < passed + bytes.length) {
            bytes = Buffer.from(bytes)
            bytes[fault.at - passed] = (bytes[fault.at - passed] as number) ^ 1
          }
          passed += bytes.length
          proxy.sent += bytes.length
          const room = outgoing.write(bytes)
          if (fault?.kind === 'pace') {
            answer.pause()
            const resume = (): void => {
              if (fault.rate > 0) answer.resume()
              else setTimeout(resume, 10)
            }
            setTimeout(resume, fault.rate > 0 ? (bytes.length / fault.rate) * 1000 : 0)
          } else if (!room) {
            answer.pause()
            outgoing.once('drain', () => answer.resume())
          }
          if (fault?.kind === 'cut' && passed >= fault.after)
            outgoing.write('', () => incoming.socket.destroy())
        })
        answer.on('end', () => {
          if (fault?.kind !== 'stall' && fault?.kind !== 'cut') outgoing.end()
        })
        answer.on('error', () => outgoing.destroy())
      },
    )
    forward.on('error', () => outgoing.destroy())
    outgoing.on('close', () => forward.destroy())
    if (fault?.kind === 'wait') {
      incoming.pause()
      const timer = setInterval(() => {
        if (!fault.until()) return
        clearInterval(timer)
        incoming.pipe(forward)
      }, 10)
      outgoing.on('close', () => clearInterval(timer))
    } else if (fault?.kind === 'slow') {
      incoming.on('data', (chunk: Buffer) => {
        incoming.pause()
        forward.write(chunk)
        setTimeout(() => incoming.resume(), (chunk.length / fault.rate) * 1000)
      })
      incoming.on('end', () => forward.end())
    } else {
      incoming.pipe(forward)
    }
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.on('clientError', (_error, socket) => socket.destroy())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy: FaultProxy = {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    requests: [],
    received: 0,
    sent: 0,
    inFlight: 0,
    fault: () => undefined,
    close: async () => {
      agent.destroy()
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
  return proxy
}
