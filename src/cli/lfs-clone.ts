import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Operation } from '../access/credentials.ts'
import {
  type ConfigEntry,
  GitEnvironment,
  parseConfigEntries,
  sharedMode,
  storageIn,
} from '../agent/git-environment.ts'
import { LfsConfig } from '../agent/lfs-config.ts'
import { isAddress } from '../agent/lfs-endpoint.ts'
import { LfsObjects, referenceFolders } from '../agent/lfs-objects.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { type LocalRepository, openRepository } from '../git/repository.ts'
import type { Io } from './io.ts'

/** A clone with all that LFS needs to know of it; nothing is asked of a server yet. */
export interface LfsClone {
  readonly repository: LocalRepository
  readonly git: GitEnvironment
  readonly config: LfsConfig
  readonly objects: LfsObjects
  /** Full name of the branch that is checked out; undefined where there is none. */
  readonly head: string | undefined
}

/** Opens the clone around `io.cwd`. @throws {TimoneError} `config` when there is none, or it cannot be read */
export async function openClone(io: Io, signal: AbortSignal): Promise<LfsClone> {
  const git = new GitEnvironment({ cwd: io.cwd, env: io.env })
  // Side by side: each is a process, and most of a small pull is waiting for them.
  const configuring = git.configEntries()
  const opening = openRepository({ cwd: io.cwd, env: io.env, signal })
  configuring.catch(() => {})
  const opened = await opening
  const repository: LocalRepository = { ...opened, config: () => git.config() }
  const [entries, own, head] = await Promise.all([
    configuring,
    readLfsConfig(repository),
    repository.git(['symbolic-ref', '-q', 'HEAD'], { accepted: [0, 1] }),
  ])
  const config = new LfsConfig(entries, own)
  const storage = storageIn(repository.commonDir, config)
  const objects = new LfsObjects(storage, {
    mode: sharedMode(config.get('core.sharedrepository')),
    references: await referenceFolders(repository.commonDir, io.env),
  })
  const branch = head.toString().trim()
  return { repository, git, config, objects, head: branch === '' ? undefined : branch }
}

/** `.lfsconfig` of the work tree, else of the index, else of HEAD: where git-lfs looks for it (git/config.go). */
async function readLfsConfig(repository: LocalRepository): Promise<ConfigEntry[]> {
  // Includes would let a repository read files of this machine.
  const list = ['config', '--list', '-z', '--no-includes']
  if (repository.workTree !== undefined) {
    const file = join(repository.workTree, '.lfsconfig')
    const found = await lstat(file).catch(() => undefined)
    if (found?.isFile() === true) {
      try {
        return parseConfigEntries((await repository.git([...list, '--file', file])).toString())
      } catch (error) {
        if (!isTimoneError(error, 'config')) throw error
        throw new TimoneError('config', `cannot read ${file}: ${error.message}`, { cause: error })
      }
    }
  }
  const [index, head] = await Promise.all(
    [':.lfsconfig', 'HEAD:.lfsconfig'].map((blob) =>
      // 128: there is no such blob.
      repository.git([...list, '--blob', blob], { accepted: [0, 1, 128] }),
    ),
  )
  return parseConfigEntries((index?.length ? index : (head ?? '')).toString())
}

/**
 * The remote that git-lfs would take where none is named: that of the branch, the configured default, the only one
 * there is, or `origin`.
 */
export function defaultRemote(
  { config, head }: Pick<LfsClone, 'config' | 'head'>,
  operation: Operation,
): string {
  const branch = head?.replace(/^refs\/heads\//, '')
  const candidates =
    operation === 'upload'
      ? [`branch.${branch}.pushremote`, 'remote.lfspushdefault', 'remote.pushdefault']
      : []
  candidates.push(`branch.${branch}.remote`, 'remote.lfsdefault')
  for (const key of candidates) {
    const remote = config.get(key)
    // A dot is this repository itself, as the upstream of a local branch.
    if (remote !== undefined && remote !== '' && remote !== '.') return remote
  }
  const remotes = remoteNames(config)
  return remotes.size === 1 ? ([...remotes][0] as string) : 'origin'
}

/** Names of the configured remotes. */
export function remoteNames(config: LfsConfig): ReadonlySet<string> {
  return new Set([...config.sections('remote', 'url')].map(([name]) => name))
}

/**
 * Tells the remote from the refs in what a user typed: the first word is the remote where `--remote` names none and a
 * remote is called so, or it is an address.
 */
export function remoteAndRefs(
  words: readonly string[],
  explicit: string | undefined,
  clone: Pick<LfsClone, 'config' | 'head'>,
  operation: Operation,
): { remote: string; refs: readonly string[] } {
  if (explicit !== undefined) {
    if (!remoteNames(clone.config).has(explicit) && !isAddress(explicit))
      throw new TimoneError('config', `no remote is called ${explicit}: git remote lists them`)
    return { remote: explicit, refs: words }
  }
  const [first, ...rest] = words
  if (first !== undefined && (remoteNames(clone.config).has(first) || isAddress(first))) {
    return { remote: first, refs: rest }
  }
  return { remote: defaultRemote(clone, operation), refs: words }
}
