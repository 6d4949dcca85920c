import type { Operation } from '../access/credentials.ts'
import type { LfsConfig } from '../agent/lfs-config.ts'
import { findEndpoint, type LfsEndpoint, printEndpoint } from '../agent/lfs-endpoint.ts'
import { printPlace, type StandalonePlace, standalonePlace } from '../agent/standalone-config.ts'
import { isTimoneError } from '../errors.ts'

/** An LFS server that can be asked. */
export type ServerEndpoint = Exclude<LfsEndpoint, { kind: 'other' }>

/** How the objects of a clone are reached. */
export type LfsWay =
  /** Through a server's Batch API. */
  | { kind: 'server'; endpoint: ServerEndpoint }
  /** Without one: at a server that only gives credentials, or in a bucket. `endpoint` may still know locks. */
  | { kind: 'standalone'; place: StandalonePlace; endpoint: ServerEndpoint | undefined }
  /** By another protocol, or another program's agent: git-lfs alone can do it. */
  | { kind: 'git-lfs'; endpoint: LfsEndpoint }

/**
 * The way for `operation` with `remote`, by git-lfs's own rules (tq/manifest.go, `lfs.<url>.standalonetransferagent`).
 * @throws {TimoneError} `config` when nothing says where the objects are
 */
export function wayTo(
  config: LfsConfig,
  env: Readonly<Record<string, string | undefined>>,
  operation: Operation,
  remote: string,
): LfsWay {
  const everywhere = config.get('lfs.standalonetransferagent')
  let endpoint: LfsEndpoint | undefined
  try {
    endpoint = findEndpoint(config, operation, remote)
  } catch (error) {
    // An agent by itself needs no server.
    if (!isTimoneError(error, 'config') || everywhere !== 'timone') throw error
  }
  const server = endpoint === undefined || endpoint.kind === 'other' ? undefined : endpoint
  const own = server && config.forUrl('lfs', server.url, 'standalonetransferagent').at(-1)
  const agent = own ?? everywhere
  if (agent === 'timone') return { kind: 'standalone', place: standalonePlace(config, env), endpoint: server }
  if (endpoint === undefined) throw new TypeError('an endpoint, or an agent by itself')
  return server === undefined || (agent !== undefined && agent !== '')
    ? { kind: 'git-lfs', endpoint }
    : { kind: 'server', endpoint: server }
}

/** For messages: without user and password. */
export function printWay(way: LfsWay): string {
  return way.kind === 'standalone' ? printPlace(way.place) : printEndpoint(way.endpoint)
}
