import { Bandwidth } from '../access/bandwidth.ts'
import { CredentialsClient, type HeldCredentials, parseHref, postJson } from '../access/client.ts'
import type { TransferRequest } from '../access/credentials.ts'
import { HttpClient, type HttpSend } from '../access/http-client.ts'
import { hrefWithoutPlan } from '../access/plan.ts'
import { Retrier } from '../access/retry.ts'
import { Throttle } from '../access/throttle.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { isObjectSize, type Oid, parseOid } from '../oid.ts'
import { downloadObject } from './download.ts'
import { type GitEnvironment, storageOfObjectPath } from './git-environment.ts'
import type { ObjectAccess, Upload } from './object-access.ts'
import { ObjectCache } from './object-cache.ts'
import { PartBuffers } from './part-buffers.ts'
import { PartLanes } from './part-lanes.ts'
import { type Action, REPLACE, type TransferMessage } from './protocol.ts'
import { ResumeStore, type UploadState } from './resume-store.ts'
import { S3Access, type S3AccessOptions } from './s3-access.ts'
import type { Transfer } from './session.ts'
import { Slots } from './slots.ts'
import { Standalone, storedSize } from './standalone.ts'
import { StreamGovernors } from './stream-governor.ts'
import { uploadObject } from './upload.ts'
import { UrlAccess } from './url-access.ts'

/** Settings of the agent, from git's configuration. */
export interface TransferSettings {
  /** Bytes. */
  partSize: number
  parallelParts: number
  /** Bytes a second of all bodies together; 0: no limit. */
  maxBandwidth: number
  /** `lfs.transfer.maxretries`. */
  retries: number
  /** `lfs.transfer.maxretrydelay`, seconds. */
  maxDelay: number
  /** Folder of the shared cache; undefined: none. */
  cacheDir: string | undefined
  /** Bytes; 0: no bound. */
  cacheSize: number
}

export interface TransfersOptions {
  git: GitEnvironment
  /** Reads the settings out of git's configuration; the command line hands it in. */
  settings: (config: ReadonlyMap<string, string>) => TransferSettings
  log: Logger
}

/** What has happened so far, for a summary. */
export interface TransferStats {
  /** Objects that came out of the shared cache, and their bytes. */
  cacheHits: number
  cacheBytes: number
}

/** Objects under way at any moment: 64 small or 8 large ones, or a mixture. */
const SLOTS = 64
const LARGE = 8

export interface Transfers {
  transfer: Transfer
  /**
   * The upload that an earlier run left, to look at it or to drop it, not to send.
   * @throws `no_such_upload` when the store no longer has it; `not_found` when the state belongs to another place
   */
  reopen: (
    oid: Oid,
    /** Null: where standalone mode says. */
    action: Action | null,
    state: Pick<UploadState, 'target' | 'size' | 'partSize' | 'uploadId'>,
    signal: AbortSignal,
  ) => Promise<Upload>
  /** Without Batch: whether an object of that size is where standalone mode says. */
  isPresent: (oid: Oid, size: number, signal: AbortSignal) => Promise<boolean>
  /** Whether an object of so many bytes goes in parts. */
  isLarge: (size: number) => boolean
  stats: TransferStats
  close: () => Promise<void>
}

/**
 * What moves objects: one HTTP client, one set of credentials for each repository and direction, and the way to each
 * object that the credentials call for. What is too much at once waits here.
 */
export async function openTransfers(options: TransfersOptions): Promise<Transfers> {
  const { git, log } = options
  let standalone: Standalone | undefined
  const settings = options.settings(await git.config())
  const bandwidth = settings.maxBandwidth > 0 ? new Bandwidth(settings.maxBandwidth) : undefined
  const http = new HttpClient((origin) => git.connectionSettings(origin), {}, bandwidth)
  const send = new Throttle().around(http.send)
  const retrier = new Retrier({ retries: settings.retries, maxDelay: settings.maxDelay })
  const slots = new Slots(SLOTS)
  let local: Promise<[storage: string, mode: number | undefined]> | undefined
  const localPlace = () => {
    local ??= Promise.all([git.lfsStorage(), git.sharedMode()])
    return local
  }
  const isLarge = (size: number): boolean => size > settings.partSize
  const cache =
    settings.cacheDir === undefined
      ? undefined
      : new ObjectCache({ folder: settings.cacheDir, bound: settings.cacheSize, log })
  const stats: TransferStats = { cacheHits: 0, cacheBytes: 0 }
  const credentials = new CredentialsClient({ send, retrier, log })
  const buffers = new PartBuffers()
  const lanes = new PartLanes(settings.parallelParts)
  const accesses = new Map<string, ObjectAccess>()
  const stores = new Map<string, ResumeStore>()
  const governors = new StreamGovernors(settings.parallelParts)
  // Each batch brings a fresh token for the same place: whoever renews uses the newest.
  const newest = new Map<string, Action>()

  const resumeStore = (lfsStorage: string): ResumeStore => {
    const known = stores.get(lfsStorage) ?? new ResumeStore(lfsStorage)
    stores.set(lfsStorage, known)
    return known
  }

  let bucket: { access: ObjectAccess; endpoint: string } | undefined
  /** The way to a bucket without a server: the store itself is asked whether an object is there. */
  const bucketAccess = async (signal: AbortSignal): Promise<ObjectAccess> => {
    standalone ??= new Standalone({ git, send })
    const way = await standalone.way(signal)
    if (way.kind !== 'bucket') throw new TypeError('a server gives an action')
    if (bucket !== undefined) return bucket.access
    const { endpoint } = way
    const access: ObjectAccess = new S3Access({
      send,
      retrier,
      credentials: way.credentials,
      log,
      endpoint,
      isPresent: async (oid, size, _upload, inner) => (await storedSize(access, oid, size, inner)) === size,
    })
    bucket = { access, endpoint }
    return access
  }

  /** Without Batch, an action from the server that `timone.url` names; null where there is a bucket alone. */
  const standaloneAction = async (signal: AbortSignal): Promise<Action | null> => {
    standalone ??= new Standalone({ git, send })
    const way = await standalone.way(signal)
    return way.kind === 'server' ? way.action : null
  }

  const accessFor = async (message: TransferMessage, signal: AbortSignal): Promise<ObjectAccess> => {
    const { action, event } = message
    if (action === null) return bucketAccess(signal)
    const route = JSON.stringify([action.href, event])
    newest.set(route, action)
    const current = (): Action => newest.get(route) ?? action
    const source = (stale: HeldCredentials | undefined, inner: AbortSignal): Promise<HeldCredentials> =>
      credentials.get(current(), event, { stale, signal: inner })
    const { answer } = await source(undefined, signal)
    const place = answer.driver === 's3' ? answer.endpoint : answer.transfers
    const key = JSON.stringify([action.href, event, answer.driver, place])
    const known = accesses.get(key)
    if (known !== undefined) return known
    const shared = { send, retrier, credentials: source, log }
    const access =
      answer.driver === 's3'
        ? new S3Access({ ...shared, endpoint: answer.endpoint, isPresent: presenceAt(send, current) })
        : new UrlAccess({ ...shared, transfers: answer.transfers })
    accesses.set(key, access)
    return access
  }

  const upload = async (
    oid: Oid,
    message: TransferMessage,
    access: ObjectAccess,
    leaveNothing: (() => boolean) | undefined,
    ...rest: Rest
  ): Promise<boolean> => {
    const { path, size } = message
    if (path === undefined || path === '') throw new TimoneError('invalid', 'git-lfs named no file to upload')
    const storage = storageOfObjectPath(path, oid)
    return uploadObject(
      oid,
      size,
      path,
      {
        access,
        resume: storage === undefined ? undefined : resumeStore(storage),
        target: targetOf(message.action, access),
        partSize: settings.partSize,
        buffers,
        lanes,
        leaveNothing,
        replace: message.action?.header[REPLACE] === '1',
        log,
      },
      ...rest,
    )
  }

  const download = async (
    oid: Oid,
    message: TransferMessage,
    access: ObjectAccess,
    leaveNothing: (() => boolean) | undefined,
    ...rest: Rest
  ): Promise<string> => {
    const [storage, mode] = await localPlace()
    return downloadObject(
      oid,
      message.size,
      {
        access,
        resume: resumeStore(storage),
        retrier,
        log,
        mode,
        source: targetOf(message.action, access),
        leaveNothing,
        parallelParts: settings.parallelParts,
        governors,
      },
      ...rest,
    )
  }

  /** The object out of the cache, before anything is asked of the network. */
  const cached = async (oid: Oid, size: number, ...[progress, signal]: Rest): Promise<string | undefined> => {
    if (cache === undefined) return undefined
    const [storage, mode] = await localPlace()
    const path = await resumeStore(storage).cachedPath(oid)
    if (!(await cache.take(oid, size, path, signal, mode))) return undefined
    stats.cacheHits++
    stats.cacheBytes += size
    progress.add(size)
    return path
  }

  const isPresent: Transfers['isPresent'] = async (oid, size, signal) => {
    const found = await standaloneAction(signal)
    const action = found && { ...found, href: hrefWithoutPlan(found.href) }
    // What may write may not read: credentials of a server are for one direction.
    const access = await accessFor({ event: 'download', oid, size, action }, signal)
    return (await storedSize(access, oid, size, signal)) === size
  }

  const move: Transfer = async (given, progress, signal, { leaveNothing } = {}) => {
    const oid = parseOid(given.oid)
    if (!isObjectSize(given.size))
      throw new TimoneError('invalid', 'a size must be a whole number from 0 to 5 TiB')
    const own = given.action === null
    const action = given.action ?? (await standaloneAction(signal))
    const message: TransferMessage = {
      ...given,
      action: action === null ? null : { ...action, href: hrefWithoutPlan(action.href) },
    }
    if (message.event === 'download') {
      const path = await cached(oid, message.size, progress, signal)
      if (path !== undefined) return { path, cached: true }
    }
    const access = await accessFor(message, signal)
    if (message.event === 'upload') {
      // Batch leaves out what is there already; without it we look ourselves.
      if (own && (await isPresent(oid, message.size, signal))) {
        progress.add(message.size)
        return { present: true }
      }
      const stored = await upload(oid, message, access, leaveNothing, progress, signal)
      // Only what git-lfs keeps as an object: sharing a file takes the permission to write from it.
      if (message.path !== undefined && storageOfObjectPath(message.path, oid) !== undefined)
        await cache?.put(oid, message.size, message.path, { copyUpTo: COPIED_AFTER_UPLOAD, signal })
      return { stored }
    }
    const path = await download(oid, message, access, leaveNothing, progress, signal)
    await cache?.put(oid, message.size, path, { signal })
    return { path }
  }
  const reopen: Transfers['reopen'] = async (oid, given, { target, size, partSize, uploadId }, signal) => {
    const found = given ?? (await standaloneAction(signal))
    const action = found && { ...found, href: hrefWithoutPlan(found.href) }
    const access = await accessFor({ event: 'upload', oid, size, action }, signal)
    if (target !== targetOf(action, access)) {
      throw new TimoneError('not_found', `this upload does not go to ${access.host}, but elsewhere`)
    }
    return access.openUpload(oid, size, { resumeId: uploadId, partSize, replace: false, signal })
  }
  // Two at once would write into one file: the second waits, and finds what the first has left.
  const underWay = new Map<string, Promise<unknown>>()
  const transfer: Transfer = async (message, progress, signal, transferOptions) => {
    const key = `${message.event} ${message.oid}`
    for (let other = underWay.get(key); other !== undefined; other = underWay.get(key)) await other
    const moving = slots.run(isLarge(message.size) ? LARGE : 1, signal, () =>
      move(message, progress, signal, transferOptions),
    )
    const settled = moving.then(
      () => underWay.delete(key),
      () => underWay.delete(key),
    )
    underWay.set(key, settled)
    return moving
  }
  const close = async (): Promise<void> => {
    await cache?.close()
    await standalone?.close()
    await http.close()
  }
  return { transfer, reopen, isPresent, isLarge, stats, close }
}

/** Where an object goes or comes from, for the state of its transfer: the server's route and the host of the bytes. */
const targetOf = (action: Action | null, access: ObjectAccess): string =>
  `${action?.href ?? ''}#${access.host}`

/**
 * What was uploaded and can only be copied into the cache, on another disk, is left out when it is larger, bytes: a push
 * need not wait for the sake of the next pull, which fills the cache as well.
 */
const COPIED_AFTER_UPLOAD = 16 * 2 ** 20

/** Asks the transfers route, which lies beside the credentials route, about an upload that the store no longer knows. */
function presenceAt(send: HttpSend, current: () => Action): S3AccessOptions['isPresent'] {
  return async (oid, size, uploadId, signal) => {
    const action = current()
    const url = new URL('transfers', parseHref(action.href))
    const request: TransferRequest = { operation: 'upload', oid, size, upload_id: uploadId }
    try {
      const { answer } = await postJson(send, url, action.header, request, signal)
      const { parts } = answer as { parts?: unknown }
      return Array.isArray(parts) && parts.length === 0
    } catch (error) {
      if (isTimoneError(error, 'no_such_upload', 'not_found', 'unauthorized')) return false
      throw error
    }
  }
}

type Rest = [progress: Parameters<Transfer>[1], signal: AbortSignal]
