import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { connect } from '../../src/database/connect.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'

/** Origin of the app that the tests write storage with. */
export const APP = 'https://app.example'

export interface StorageAnswer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
}

export interface Owner {
  id: number
  login: string
  token: string
}

/** Adds users to a server's database, each with a token of {@link APP} that opens all of their storage. */
export async function addOwners(databaseUrl: string, logins: readonly string[]): Promise<Owner[]> {
  const database = await connect(databaseUrl)
  try {
    const owners: Owner[] = []
    for (const login of logins) {
      const { id } = await new Users(database.db).add({ login }, '')
      const scopes = ['storage:*:rw']
      const { token } = await new OpaqueTokens(database.db).issue({
        ...{ userId: id, kind: 'app', scopes, client: APP },
      })
      owners.push({ id, login, token })
    }
    return owners
  } finally {
    await database.close()
  }
}

/** One client of somebody's storage, on one connection that stays. */
export class StorageClient {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  readonly #url: string
  readonly #token: string

  constructor(url: string, { login, token }: Owner) {
    this.#url = `${url}/storage/${login}`
    this.#token = token
  }

  /** `path` begins with a slash, and goes out as it is. */
  ask(
    method: string,
    path: string,
    { body, headers = {} }: { body?: Buffer | string; headers?: Record<string, string> } = {},
  ): Promise<StorageAnswer> {
    const fields = {
      authorization: `Bearer ${this.#token}`,
      ...(body === undefined
        ? {}
        : { 'content-type': 'text/plain', 'content-length': Buffer.byteLength(body) }),
      ...headers,
    }
    return new Promise((resolve, reject) => {
      const options = { method, agent: this.#agent, headers: fields }
      const asked = request(`${this.#url}${path}`, options, (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.once('error', reject)
        response.once('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks),
          }),
        )
      })
      asked.once('error', reject)
      asked.end(body)
    })
  }

  /** Stores a document, and gives its tag. @throws Error unless it worked */
  async put(path: string, body: Buffer | string): Promise<string> {
    const { status, headers, body: said } = await this.ask('PUT', path, { body })
    if (status !== 200 && status !== 201) throw new Error(`PUT ${path} was answered ${status}: ${said}`)
    return headers.etag ?? ''
  }

  close(): void {
    this.#agent.destroy()
  }
}
