import { createCipheriv, createHash } from 'node:crypto'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { link, mkdir, open, rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { lfsObject } from '../../test/helpers/world.ts'

const KIB = 2 ** 10
const MIB = 2 ** 20

/** One file of a data set, as it lies in a clone's LFS storage. */
export interface DataFile {
  /** Path in the repository. */
  name: string
  oid: string
  size: number
}

/** Name and sizes of each data set; the bytes are random, the same in every run, and do not compress. */
export const DATA_SETS = {
  '1gib': Array<number>(1).fill(1024 * MIB),
  '8x128mib': Array<number>(8).fill(128 * MIB),
  small: Array<number>(2000).fill(100 * KIB),
  mixed: longTail(500),
  '50k': Array<number>(50_000).fill(4 * KIB),
} as const

export type DataSetName = keyof typeof DATA_SETS

/** Log-normal sizes, as of the files in real repositories: half below 64 KiB, a few of tens of MiB; 1 KiB to 64 MiB. */
function longTail(count: number): number[] {
  const random = numbers(count)
  return Array.from({ length: count }, () => {
    // Box and Muller's way from two even numbers to a normal one.
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    return Math.round(Math.min(64 * MIB, Math.max(KIB, 64 * KIB * Math.exp(2.2 * normal))))
  })
}

/** Even numbers in [0, 1), the same ones for the same seed (mulberry32). */
function numbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Writes a data set's objects into the LFS storage of `work`, and the same files by name under `plain`. */
export async function writeDataSet(set: DataSetName, work: string, plain: string): Promise<DataFile[]> {
  const files: DataFile[] = []
  const zeros = Buffer.alloc(MIB)
  for (const [index, size] of DATA_SETS[set].entries()) {
    const key = createHash('sha256').update(`${set} ${index}`).digest().subarray(0, 16)
    const keystream = createCipheriv('aes-128-ctr', key, Buffer.alloc(16))
    const hash = createHash('sha256')
    // Folders of 500, as nobody keeps 50 000 files in one.
    const name = `data/${Math.floor(index / 500)}/${index}.bin`
    const path = join(plain, name)
    await mkdir(dirname(path), { recursive: true })
    const file = await open(path, 'w')
    for (let at = 0; at < size; at += MIB) {
      const bytes = keystream.update(zeros.subarray(0, Math.min(MIB, size - at)))
      hash.update(bytes)
      await file.write(bytes)
    }
    await file.close()
    const oid = hash.digest('hex')
    const object = lfsObject(work, oid)
    await mkdir(dirname(object), { recursive: true })
    await link(path, object)
    files.push({ name, oid, size })
  }
  return files
}

/** An object of `size` zeros but for its end, taking no room on the disk, in the LFS storage of `work`. */
export async function writeSparse(work: string, size: number, mark: string): Promise<DataFile> {
  const temporary = join(work, '.git', `sparse-${mark}`)
  const file = await open(temporary, 'w')
  await file.truncate(size)
  await file.write(mark, size - mark.length)
  await file.close()
  const hash = createHash('sha256')
  const zeros = Buffer.alloc(MIB)
  let left = size - mark.length
  for (; left >= MIB; left -= MIB) hash.update(zeros)
  hash.update(zeros.subarray(0, left)).update(mark)
  const oid = hash.digest('hex')
  const object = lfsObject(work, oid)
  await mkdir(dirname(object), { recursive: true })
  await rename(temporary, object)
  return { name: `data/0/${mark}.bin`, oid, size }
}

/** A stream for `git fast-import`: one commit on main with the pointers of `files`, without a work tree to fill. */
export async function writeCommit(path: string, files: DataFile[]): Promise<void> {
  const out = createWriteStream(path)
  const add = (name: string, text: string): void => {
    out.write(`M 100644 inline ${name}\ndata ${Buffer.byteLength(text)}\n${text}\n`)
  }
  out.write('commit refs/heads/main\ncommitter Ada <ada@example.org> 1700000000 +0000\ndata 5\nfiles\n')
  add('.gitattributes', '*.bin filter=lfs diff=lfs merge=lfs -text\n')
  for (const { name, oid, size } of files)
    add(name, `version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${size}\n`)
  out.end('done\n')
  await once(out, 'finish')
}
