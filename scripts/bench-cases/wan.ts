import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'

/** What passed the line since its counters were reset. */
export interface WanCounters {
  /** Bytes that reached the server, and the client. */
  up: number
  down: number
  /** Connections made. */
  connections: number
  /** Connections open at this moment. */
  open: number
  /** CPU seconds of the proxy itself. */
  cpu: number
}

export interface Wan {
  /** Where clients connect to. */
  port: number
  /** With TLS: the far end without the line in between. */
  tlsPort: number | undefined
  read(): Promise<WanCounters>
  reset(): Promise<void>
  close(): Promise<void>
}

export interface WanOptions {
  /** HOST:PORT of the server behind the line. */
  target: string
  /** Milliseconds; 50 unless told. */
  rtt?: number
  /** Bytes a second, each connection and direction; 20 MB unless told. */
  rate?: number
  /** Of a hundred packets, and of a hundred connections: see wan-proxy.ts. */
  loss?: number
  stall?: number
  /** Folder with `cert.pem` and `key.pem`. */
  tls?: string | undefined
}

/** Starts a long line in front of a server, as a process of its own: what it costs is nobody's else. */
export async function startWan(options: WanOptions): Promise<Wan> {
  const args = Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : [`--${name}`, String(value)],
  )
  const child = spawn(
    process.execPath,
    ['--single-threaded', resolve('scripts/bench-cases/wan-proxy.ts'), ...args],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  )
  const [line] = (await once(child.stdout.setEncoding('utf8'), 'data')) as [string]
  const { port, control, tls } = JSON.parse(line) as { port: number; control: number; tls?: number }
  const url = `http://127.0.0.1:${control}/`
  return {
    port,
    tlsPort: tls,
    read: async () => (await (await fetch(url)).json()) as WanCounters,
    reset: async () => {
      await (await fetch(`${url}reset`, { method: 'POST' })).text()
    },
    close: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const ended = once(child, 'exit')
      child.stdin.end()
      await ended
    },
  }
}
