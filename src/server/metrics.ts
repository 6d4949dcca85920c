import type { IncomingMessage, ServerResponse } from 'node:http'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { VERSION } from '../version.ts'
import type { RequestTarget } from './request-target.ts'

/** Seconds: from what a look-up in memory takes to what a large object takes. */
const BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** What the routes are called in `route`; names of repositories and users are in none of them. */
const ROUTES: readonly (readonly [name: string, path: RegExp])[] = [
  ['object', /^\/[^/]+\/[^/]+\/object\/[^/]+$/],
  ['batch', /\/info\/lfs\/objects\/batch$/],
  ['verify', /\/info\/lfs\/objects\/verify$/],
  ['locks', /\/info\/lfs\/locks(\/|$)/],
  ['credentials', /\/info\/lfs\/credentials$/],
  ['transfers', /\/info\/lfs\/transfers(\/|$)/],
  ['health', /^\/(healthz|readyz|api\/health)$/],
  ['metrics', /^\/metrics$/],
  ['oauth', /^\/(oauth|auth)(\/|$)/],
  ['storage', /^\/storage(\/|$)/],
  ['api', /^\/(api|users)(\/|$)/],
]

export interface Metrics {
  /** Counts a request from its beginning until its answer is out or the client gone. */
  observe(request: IncomingMessage, response: ServerResponse, target: RequestTarget | undefined): void
  /** Prometheus's text format 0.0.4. */
  print(): Promise<{ type: string; text: string }>
}

/** What Prometheus is told of a server, and of its process. */
export function createMetrics(): Metrics {
  const register = new Registry()
  const registers = [register]
  collectDefaultMetrics({ register })
  new Gauge({
    name: 'timone_info',
    help: 'Version of this server.',
    labelNames: ['version'],
    registers,
  }).set({ version: VERSION }, 1)
  const running = new Gauge({ name: 'timone_http_requests_running', help: 'Requests under way.', registers })
  const requests = new Counter({
    name: 'timone_http_requests_total',
    help: 'Requests that were answered; status 0: the client left before.',
    labelNames: ['method', 'route', 'status'],
    registers,
  })
  const seconds = new Histogram({
    name: 'timone_http_request_seconds',
    help: 'Time from the head of a request to the end of its answer.',
    labelNames: ['route'],
    buckets: BUCKETS,
    registers,
  })
  const received = new Counter({
    name: 'timone_http_received_bytes_total',
    help: 'Bytes of the bodies of requests, as they were announced.',
    labelNames: ['route'],
    registers,
  })
  const sent = new Counter({
    name: 'timone_http_sent_bytes_total',
    help: 'Bytes of answers, with their heads.',
    labelNames: ['route'],
    registers,
  })
  return {
    observe(request, response, target) {
      const started = performance.now()
      const { socket } = request
      const written = socket.bytesWritten
      const route = routeOf(target)
      running.inc()
      response.once('close', () => {
        running.dec()
        const method = METHODS.has(request.method ?? '') ? (request.method as string) : 'other'
        requests.inc({ method, route, status: response.headersSent ? response.statusCode : 0 })
        seconds.observe({ route }, (performance.now() - started) / 1000)
        const length = Number(request.headers['content-length'] ?? 0)
        if (length > 0) received.inc({ route }, length)
        sent.inc({ route }, Math.max(0, socket.bytesWritten - written))
      })
    },
    print: async () => ({ type: register.contentType, text: await register.metrics() }),
  }
}

function routeOf(target: RequestTarget | undefined): string {
  return ROUTES.find(([, path]) => target !== undefined && path.test(target.path))?.[0] ?? 'other'
}
