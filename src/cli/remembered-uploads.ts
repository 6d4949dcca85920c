import { createAgentLog } from '../agent/log.ts'
import type { Upload } from '../agent/object-access.ts'
import type { Action } from '../agent/protocol.ts'
import { type RememberedUpload, ResumeStore } from '../agent/resume-store.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Io } from './io.ts'
import { defaultRemote, type LfsClone, openClone } from './lfs-clone.ts'
import { connect, type LfsConnection } from './lfs-connection.ts'
import { wayTo } from './lfs-way.ts'
import type { UploadEntry, UploadsOptions, UploadsSource } from './uploads.ts'

/**
 * The uploads that pushes from a clone began and did not end. To look into one or to drop it, the server is asked as a
 * push asks it; that is the server of the clone's remote, never one that a state file names.
 * @throws {TimoneError} `config` outside a clone
 */
export async function rememberedUploads(
  options: Pick<UploadsOptions, 'remote'>,
  io: Io,
  signal: AbortSignal,
): Promise<UploadsSource> {
  const clone = await openClone(io, signal)
  const store = new ResumeStore(await clone.git.lfsStorage())
  const server = new Server(clone, options.remote, io, signal)
  const remembered = new WeakMap<UploadEntry, RememberedUpload>()
  return {
    async *entries({ check }) {
      for (const upload of await store.listUploads()) {
        const { oid, state, owner } = upload
        const entry: UploadEntry = {
          oid,
          size: state.size,
          repository: placeOf(state.target),
          startedAt: new Date(state.startedAt ?? 0),
          stored: check ? await storedOf(upload, server) : undefined,
          details: { part_size: state.partSize, owner },
          busy:
            owner === 'alive'
              ? `process ${state.owner.pid} is sending it`
              : owner === 'elsewhere'
                ? `it belongs to the machine ${printable(state.owner.host)}`
                : undefined,
        }
        remembered.set(entry, upload)
        yield entry
      }
    },
    async abort(entry) {
      const upload = remembered.get(entry)
      if (upload === undefined) throw new TypeError('not an upload of this clone')
      const { oid } = upload
      // A push that starts now must not go on with what is dropped here.
      const state = await store.claimUpload(oid, upload.state)
      if (state === undefined) throw new TimoneError('conflict', 'another process has just taken it over')
      try {
        const open = await server.reopen({ ...upload, state })
        if (!(await open.abort())) {
          throw new TimoneError('unavailable', 'the store could not be told: try again later')
        }
      } catch (error) {
        // It is gone there: nothing is left but the memory of it.
        if (!isTimoneError(error, 'no_such_upload')) throw error
      }
      await store.dropUpload(oid)
    },
    close: () => server.close(),
  }
}

/** The LFS server of the clone, asked when it is first needed. */
class Server {
  readonly #clone: LfsClone
  readonly #remote: string | undefined
  readonly #io: Io
  readonly #signal: AbortSignal
  #connection: Promise<LfsConnection> | undefined

  constructor(clone: LfsClone, remote: string | undefined, io: Io, signal: AbortSignal) {
    this.#clone = clone
    this.#remote = remote
    this.#io = io
    this.#signal = signal
  }

  /** @throws {TimoneError} `no_such_upload` when the store has it no more */
  async reopen({ oid, state }: RememberedUpload): Promise<Upload> {
    const connection = await this.#connect()
    const batch = connection.batch(undefined)
    let action = await this.#actionFor(batch, oid, state.size)
    // The server has the object: credentials are the same for one that it cannot have.
    if (action === undefined) action = await this.#actionFor(batch, notAnObject(oid), state.size)
    if (action === undefined)
      throw new TimoneError('config', 'the server of this remote is no timone server: it cannot tell')
    return connection.reopen(oid, action, state, this.#signal)
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined)
    await connection?.close()
  }

  async #actionFor(
    batch: ReturnType<LfsConnection['batch']>,
    oid: RememberedUpload['oid'],
    size: number,
  ): Promise<Action | null | undefined> {
    const [verdict] = await batch.ask([{ oid, size }], this.#signal)
    if (verdict?.kind === 'failed') throw verdict.error
    return verdict?.kind === 'move' ? verdict.action : undefined
  }

  #connect(): Promise<LfsConnection> {
    this.#connection ??= (async () => {
      const remote = this.#remote ?? defaultRemote(this.#clone, 'upload')
      const way = wayTo(this.#clone.config, this.#io.env, 'upload', remote)
      if (way.kind === 'git-lfs')
        throw new TimoneError('config', 'the uploads of this remote are not in the hands of a timone server')
      const log = createAgentLog({
        level: this.#io.env.TIMONE_LOG_LEVEL ?? 'info',
        file: this.#io.env.TIMONE_LOG,
        stderr: () => {},
      })
      return connect(this.#io, this.#clone, {
        way,
        operation: 'upload',
        remote,
        log,
        signal: this.#signal,
      })
    })()
    return this.#connection
  }
}

/** Bytes of the upload that the store has; undefined where it cannot be asked. */
async function storedOf(upload: RememberedUpload, server: Server): Promise<number | undefined> {
  const { state } = upload
  try {
    const { id, missing } = await server.reopen(upload)
    if (id === undefined) return 0
    const lacking = missing.reduce((sum, { size }) => sum + size, 0)
    return state.size - lacking
  } catch (error) {
    if (isTimoneError(error, 'no_such_upload')) return 0
    if (isTimoneError(error, 'not_found', 'config')) return undefined
    throw error
  }
}

/** An oid of the same form that no object has: SHA-256 would have to be broken for it. */
function notAnObject(oid: RememberedUpload['oid']): RememberedUpload['oid'] {
  const turned = (Number.parseInt(oid.slice(0, 1), 16) ^ 8).toString(16)
  return `${turned}${oid.slice(1)}` as RememberedUpload['oid']
}

/** `host/org/repo` of a state's target, in which anything may stand. */
function placeOf(target: string): string {
  const [address = '', host = '?'] = target.split('#')
  // A bucket without a server is known by its host.
  if (address === '') return printable(host)
  const url = URL.parse(address)
  if (url === null) return '?'
  return printable(`${url.host}${url.pathname.replace(/\/info\/lfs\/credentials$/, '')}`)
}

/** With nothing in it that a terminal would obey. */
const printable = (text: string): string => text.replace(/[^\x20-\x7e]/g, '?').slice(0, 200)
