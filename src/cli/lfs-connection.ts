import { setMaxListeners } from 'node:events'
import type { Operation } from '../access/credentials.ts'
import { HttpClient } from '../access/http-client.ts'
import { Retrier } from '../access/retry.ts'
import { BatchClient, verifyUpload } from '../agent/batch-client.ts'
import { GitCredential } from '../agent/git-credential.ts'
import { LfsApi } from '../agent/lfs-api.ts'
import { remoteAddress } from '../agent/lfs-endpoint.ts'
import { openTransfers, type Transfers } from '../agent/transfers.ts'
import type { Logger } from '../log.ts'
import { agentSettings } from './agent-transfers.ts'
import type { Io } from './io.ts'
import type { LfsClone } from './lfs-clone.ts'
import type { LfsWay } from './lfs-way.ts'
import type { MoveOptions } from './move-objects.ts'

/** What can be asked about objects, and the engine that moves them. */
export interface LfsConnection {
  /** The server; undefined in standalone mode where none is known. */
  readonly api: LfsApi | undefined
  batch(ref: string | undefined): MoveOptions['batch']
  readonly transfer: MoveOptions['transfer']
  readonly isPresent: Transfers['isPresent']
  readonly reopen: Transfers['reopen']
  readonly verify: MoveOptions['verify']
  /** Undefined where nobody is to be asked. */
  confirm(ref: string | undefined): MoveOptions['confirm']
  close(): Promise<void>
}

/** Opens the way to the objects. Nothing is sent yet. */
export async function connect(
  io: Io,
  clone: LfsClone,
  options: {
    way: Exclude<LfsWay, { kind: 'git-lfs' }>
    operation: Operation
    remote: string
    log: Logger
    signal: AbortSignal
    /** Told while somebody may be typing a password. */
    asking?: (now: boolean) => void
  },
): Promise<LfsConnection> {
  const { git, config } = clone
  const { way, operation, remote, log, signal, asking } = options
  // Every object in flight listens to it.
  setMaxListeners(0, signal)
  const settings = agentSettings(await git.config())
  const http = new HttpClient((origin) => git.connectionSettings(origin))
  const retrier = new Retrier({ retries: settings.retries, maxDelay: settings.maxDelay })
  const transfers = await openTransfers({ git, settings: agentSettings, log })
  const { endpoint } = way
  const api =
    endpoint &&
    new LfsApi({
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
  const asked = way.kind === 'server' ? api : undefined
  return {
    api,
    batch: (ref) => (asked === undefined ? STANDALONE : new BatchClient({ api: asked, operation, ref })),
    transfer: transfers.transfer,
    isPresent: transfers.isPresent,
    reopen: transfers.reopen,
    verify: (object, action, inner) => verifyUpload(object, action, { send: http.send, retrier, log }, inner),
    confirm: (ref) => {
      if (asked === undefined) return undefined
      const downloads = new BatchClient({ api: asked, operation: 'download', ref })
      return (objects, inner) => downloads.ask(objects, inner)
    },
    async close() {
      await api?.close()
      await Promise.all([http.close(), transfers.close()])
    },
  }
}

/** Where there is no Batch API, every object is to be moved: the engine itself looks what is there. */
const STANDALONE: MoveOptions['batch'] = {
  ask: async (objects) => objects.map(() => ({ kind: 'move', action: null, verify: undefined })),
}
