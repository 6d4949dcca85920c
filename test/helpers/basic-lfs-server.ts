import { createHash } from 'node:crypto'
import { once } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'

/** An LFS server that knows the Batch API and `basic` transfers, and nothing of timone. */
export interface BasicLfsServer {
  /** What `lfs.url` is set to. */
  url: string
  objects: Map<string, Buffer>
  /** Names of transfers that each Batch request offered. */
  offered: string[][]
  close(): Promise<void>
}

export async function basicLfsServer(): Promise<BasicLfsServer> {
  const objects = new Map<string, Buffer>()
  const offered: string[][] = []
  let base = ''
  const server = http.createServer(async (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    const oid = /^\/objects\/([0-9a-f]{64})$/.exec(request.url ?? '')?.[1]
    const say = (status: number, answer: unknown): void => {
      response
        .writeHead(status, { 'content-type': 'application/vnd.git-lfs+json' })
        .end(JSON.stringify(answer))
    }
    if (request.url === '/lfs/objects/batch') {
      const { operation, transfers, objects: asked } = JSON.parse(body.toString())
      offered.push(transfers ?? [])
      say(200, {
        transfer: 'basic',
        objects: asked.map((object: { oid: string; size: number }) => {
          const have = objects.has(object.oid)
          if (operation === 'download' && !have)
            return { ...object, error: { code: 404, message: 'not here' } }
          if (operation === 'upload' && have) return object
          return {
            ...object,
            authenticated: true,
            actions: { [operation]: { href: `${base}/objects/${object.oid}` } },
          }
        }),
      })
    } else if (oid !== undefined && request.method === 'PUT') {
      const right = createHash('sha256').update(body).digest('hex') === oid
      if (right) objects.set(oid, body)
      response.writeHead(right ? 200 : 422).end()
    } else if (oid !== undefined && objects.has(oid)) {
      response.writeHead(200).end(objects.get(oid))
    } else {
      say(404, { message: 'no such thing' })
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  base = `http://127.0.0.1:${(server.address() as { port: number }).port}`
  return {
    url: `${base}/lfs`,
    objects,
    offered,
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
