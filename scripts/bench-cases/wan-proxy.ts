import { readFileSync } from 'node:fs'
import http from 'node:http'
import net, { type AddressInfo, type Socket } from 'node:net'
import tls from 'node:tls'
import { parseArgs } from 'node:util'
import { DelayLine } from './delay-line.ts'

/**
 * A long line in front of a server, as a process of its own: a TCP proxy that delays and paces every connection by
 * itself, in both directions. A connection costs a round trip before its first bytes pass, as a handshake does (the
 * loopback beneath has none).
 *
 *   node wan-proxy.ts --target HOST:PORT [--rtt MS] [--rate BYTES/S] [--loss %] [--stall %] [--tls FOLDER]
 *
 * `--loss`: so many packets of a hundred are lost; each holds up its connection until it is sent again. `--stall`: so many
 * connections of a hundred fall silent once for 40 s, somewhere in their first 16 MiB. `--tls`: the far end speaks TLS with
 * FOLDER/cert.pem and key.pem. Prints one line of JSON, {"port","control","tls"}: the proxy's port, that of its counters
 * (GET /, POST /reset), and that of the far end's TLS without the line. Ends with its standard input.
 */
const { values } = parseArgs({
  options: {
    target: { type: 'string' },
    rtt: { type: 'string', default: '50' },
    rate: { type: 'string', default: '20000000' },
    loss: { type: 'string', default: '0' },
    stall: { type: 'string', default: '0' },
    tls: { type: 'string' },
  },
})
const [targetHost, targetPort] = (values.target as string).split(':') as [string, string]
const rtt = Number(values.rtt)
const quality = { delay: rtt / 2, rate: Number(values.rate) / 1000, loss: Number(values.loss) / 100 }
const stalled = Number(values.stall) / 100
const STALL = { milliseconds: 40_000, within: 16 * 2 ** 20 }
/** Milliseconds between deliveries: coarse, so that many chunks go on in one write. */
const TICK = 2

const lines = new Set<DelayLine>()
const counters = { up: 0, down: 0, connections: 0, open: 0 }
let ticking: NodeJS.Timeout | undefined

function tick(): void {
  // A chunk that is due in the first half of the coming tick goes now: none is late or early by more than that.
  const now = performance.now() + TICK / 2
  for (const line of lines) {
    line.deliver(now)
    if (line.empty) lines.delete(line)
  }
  if (lines.size > 0) return
  clearInterval(ticking)
  ticking = undefined
}

function carry(from: Socket, to: Socket, direction: 'up' | 'down', open: number): void {
  const line = new DelayLine(from, to, quality, open)
  let seen = 0
  let stallAt = Math.random() < stalled ? Math.random() * STALL.within : Number.POSITIVE_INFINITY
  const take = (bytes: Buffer | undefined): void => {
    const now = performance.now()
    seen += bytes?.length ?? 0
    if (seen > stallAt) {
      stallAt = Number.POSITIVE_INFINITY
      line.stall(now, STALL.milliseconds)
    }
    line.take(bytes, now)
    lines.add(line)
    ticking ??= setInterval(tick, TICK)
  }
  from.on('data', take)
  from.on('end', () => take(undefined))
  from.on('error', () => to.destroy())
  from.on('close', (failed) => {
    if (failed || !from.readableEnded) to.destroy()
  })
  to.on('close', () => {
    counters[direction] += line.delivered
    counted.delete(line)
    lines.delete(line)
  })
  counted.set(line, direction)
}
const counted = new Map<DelayLine, 'up' | 'down'>()

function connectTo(host: string, port: number): (near: Socket) => void {
  return (near) => {
    counters.connections++
    counters.open++
    near.on('close', () => counters.open--)
    const far = net.connect({ host, port, allowHalfOpen: true, noDelay: true })
    const now = performance.now()
    carry(near, far, 'up', now + rtt)
    carry(far, near, 'down', now + rtt / 2)
  }
}

const listen = async (server: net.Server | http.Server): Promise<number> => {
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return (server.address() as AddressInfo).port
}

let farPort = Number(targetPort)
let tlsPort: number | undefined
if (values.tls !== undefined) {
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => readFileSync(`${values.tls}/${name}`))
  const terminator = tls.createServer({ cert, key, noDelay: true, allowHalfOpen: true }, (near) => {
    const far = net.connect({
      host: targetHost,
      port: Number(targetPort),
      noDelay: true,
      allowHalfOpen: true,
    })
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('error', () => to.destroy())
      from.pipe(to)
    }
  })
  tlsPort = await listen(terminator)
  farPort = tlsPort
}

const proxy = net.createServer(
  { allowHalfOpen: true, noDelay: true },
  connectTo(values.tls === undefined ? targetHost : '127.0.0.1', farPort),
)
const reset = { up: 0, down: 0, connections: 0, cpu: process.cpuUsage() }
const control = http.createServer((request, response) => {
  const total = { ...counters }
  for (const [line, direction] of counted) total[direction] += line.delivered
  if (request.method === 'POST') Object.assign(reset, total, { cpu: process.cpuUsage() })
  const { user, system } = process.cpuUsage(reset.cpu)
  response.end(
    JSON.stringify({
      up: total.up - reset.up,
      down: total.down - reset.down,
      connections: total.connections - reset.connections,
      open: counters.open,
      cpu: (user + system) / 1e6,
    }),
  )
})
const ports = { port: await listen(proxy), control: await listen(control), tls: tlsPort }
process.stdout.write(`${JSON.stringify(ports)}\n`)
process.stdin.resume().on('end', () => process.exit(0))
