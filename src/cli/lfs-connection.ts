import { setMaxListeners } from 'node:events'
import type { Operation } from '../access/credentials.ts'
import { HttpClient } from '../access/http-client.ts'
import { Retrier } from '../access/retry.ts'
import { BatchClient, verifyUpload } from '../agent/batch-client.ts'
import { GitCredential } from '../agent/git-credential.ts'
import { LfsApi } from '../agent/lfs-api.ts'
import { findEndpoint, type LfsEndpoint, remoteAddress } from '../agent/lfs-endpoint.ts'
import { openTransfers, type Transfers } from '../agent/transfers.ts'
import type { Logger } from '../log.ts'
import { agentSettings } from './agent-transfers.ts'
import type { Io } from './io.ts'
import type { LfsClone } from './lfs-clone.ts'
import type { MoveOptions } from './move-objects.ts'

/** An LFS server, and the engine that moves objects. */
export interface LfsConnection {
  readonly api: LfsApi
  batch(ref: string | undefined): BatchClient
  readonly transfer: MoveOptions['transfer']
  readonly reopen: Transfers['reopen']
  readonly verify: MoveOptions['verify']
  confirm(ref: string | undefined): NonNullable<MoveOptions['confirm']>
  close(): Promise<void>
}

/**
 * The endpoint for `operation` with `remote`, and whether git-lfs alone can talk to it: another protocol, or an agent
 * that works without a server.
 */
export function endpointOf(
  { config }: Pick<LfsClone, 'config'>,
  operation: Operation,
  remote: string,
): { endpoint: LfsEndpoint; gitLfsOnly: boolean } {
  const endpoint = findEndpoint(config, operation, remote)
  if (endpoint.kind === 'other') return { endpoint, gitLfsOnly: true }
  const agent =
    config.forUrl('lfs', endpoint.url, 'standalonetransferagent').at(-1) ??
    config.get('lfs.standalonetransferagent')
  return { endpoint, gitLfsOnly: agent !== undefined && agent !== '' }
}

/** Opens the way to `endpoint`. Nothing is sent yet. */
export async function connect(
  io: Io,
  clone: LfsClone,
  options: {
    endpoint: Exclude<LfsEndpoint, { kind: 'other' }>
    operation: Operation
    remote: string
    log: Logger
    signal: AbortSignal
    /** Told while somebody may be typing a password. */
    asking?: (now: boolean) => void
  },
): Promise<LfsConnection> {
  const { git, config } = clone
  const { endpoint, operation, remote, log, signal, asking } = options
  // Every object in flight listens to it.
  setMaxListeners(0, signal)
  const settings = agentSettings(await git.config())
  const http = new HttpClient((origin) => git.connectionSettings(origin))
  const retrier = new Retrier({ retries: settings.retries, maxDelay: settings.maxDelay })
  const transfers = await openTransfers({ git, settings: agentSettings, log })
  const api = new LfsApi({
    endpoint,
    operation,
    remoteUrl: remoteAddress(config, operation, remote),
    config,
    credentials: new GitCredential({ cwd: io.cwd, env: io.env }),
    cwd: io.cwd,
    env: io.env,
    send: http.send,
    retrier,
    log,
    asking,
  })
  return {
    api,
    batch: (ref) => new BatchClient({ api, operation, ref }),
    transfer: transfers.transfer,
    reopen: transfers.reopen,
    verify: (object, action, inner) => verifyUpload(object, action, { send: http.send, retrier, log }, inner),
    confirm: (ref) => {
      const downloads = new BatchClient({ api, operation: 'download', ref })
      return (objects, inner) => downloads.ask(objects, inner)
    },
    async close() {
      await api.close()
      await Promise.all([http.close(), transfers.close()])
    },
  }
}
