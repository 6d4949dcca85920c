import { link, linkSync, mkdir, mkdirSync, open, openSync, rename, renameSync, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { systemCode } from '../errors.ts'

/** The calls that find or make names, on plain descriptors: a FileHandle costs twice as much, and objects are many. */
export interface FileCalls {
  /** True where the calls are made at once, on the main thread. */
  readonly direct: boolean
  open(path: string, flags: number, mode?: number): Promise<number>
  link(path: string, second: string): Promise<void>
  mkdir(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
}

const openPooled = promisify(open)

/** Through Node's threads: for a network drive, whose answers nobody should have to wait for. */
const POOLED: FileCalls = {
  direct: false,
  open: (path, flags, mode) => openPooled(path, flags, mode),
  link: promisify(link),
  mkdir: promisify(mkdir),
  rename: promisify(rename),
}

/** At once: on a local disk a call takes microseconds, and its way through another thread ten times that. */
const DIRECT: FileCalls = {
  direct: true,
  open: async (path, flags, mode) => openSync(path, flags, mode),
  link: async (path, second) => linkSync(path, second),
  mkdir: async (path) => mkdirSync(path),
  rename: async (from, to) => renameSync(from, to),
}

/** Kinds of local file systems, as statfs(2) numbers them. What is not known is taken for a network drive. */
const LOCAL: ReadonlySet<number> = new Set([
  0xef53, // ext4
  0x58465342, // xfs
  0x9123683e, // btrfs
  0x2fc12fc1, // zfs
  0xca451a4e, // bcachefs
  0xf2f52010, // f2fs
  0x01021994, // tmpfs
  0x794c7630, // overlayfs
])

/** The calls that suit the file system of `folder`, or of the first folder above it that is there. */
export function fileCalls(folder: string): FileCalls {
  try {
    return LOCAL.has(statfsSync(folder).type >>> 0) ? DIRECT : POOLED
  } catch (error) {
    const parent = dirname(folder)
    return systemCode(error) === 'ENOENT' && parent !== folder ? fileCalls(parent) : POOLED
  }
}
