import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { DeleteObjectsCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3'
import { testS3 } from '../../test/helpers/s3.ts'
import type { Stage } from './stage.ts'

/** One line of the table; the single figures are kept, so that the spread can be shown. */
export interface Row {
  case: string
  metric: string
  unit: string
  timone: number[]
  other: number[]
  otherName: string
  /** For figures that are held against a limit instead of a rival. */
  limit?: number
  /** Above 1: timone is better. Not a number: there is nothing to compare with. */
  ratio: number
  /** What the ratio has to be at least. */
  atLeast?: number
  /** Shown in the second table. */
  detail?: boolean
}

export interface BenchOptions {
  /** Undefined: as many as the case thinks right. */
  runs: number | undefined
  /** Servers, line and repositories that the cases share; made when first asked for. */
  stage: () => Promise<Stage>
}

export type BenchCase = (options: BenchOptions) => Promise<Row[]>

export function median(numbers: number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const [low, high] = [sorted[middle - 1] ?? 0, sorted[middle] ?? 0]
  return sorted.length % 2 === 1 ? high : (low + high) / 2
}

/** A row that compares pairs measured in turn: less is better, the ratio is the median of the pairs' ratios. */
export function pairs(
  name: string,
  metric: string,
  unit: string,
  timone: number[],
  other: number[],
  otherName: string,
): Row {
  const ratio = median(timone.map((figure, index) => (other[index] as number) / figure))
  return { case: name, metric, unit, timone, other, otherName, ratio }
}

/** A row that holds a figure against a limit: less is better. */
export function against(name: string, metric: string, unit: string, timone: number[], limit: number): Row {
  return {
    case: name,
    metric,
    unit,
    timone,
    other: [],
    otherName: 'limit',
    limit,
    ratio: limit / median(timone),
  }
}

/** A row with a figure that is good to know. */
export function figure(name: string, metric: string, unit: string, timone: number[]): Row {
  return { case: name, metric, unit, timone, other: [], otherName: '', ratio: Number.NaN }
}

/** Whether what must hold does; undefined where nothing must. */
export function holds(row: Row): boolean | undefined {
  if (row.limit !== undefined) return median(row.timone) <= row.limit
  return row.atLeast === undefined ? undefined : row.ratio >= row.atLeast
}

/** The most memory that a running process ever had resident, MiB. */
export function peakMemory(pid: number): number {
  const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(match?.[1]) / 1024
}

/** What lies in the bucket under `prefix`. */
export async function stored(prefix: string): Promise<{ count: number; bytes: number }> {
  const { url, region, credentials, bucket } = testS3()
  const client = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
  const found = { count: 0, bytes: 0 }
  let token: string | undefined
  do {
    const page = await client.send(
      new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, ContinuationToken: token }),
    )
    for (const { Size = 0 } of page.Contents ?? []) {
      found.count++
      found.bytes += Size
    }
    token = page.NextContinuationToken
  } while (token !== undefined)
  client.destroy()
  return found
}

/** Empties the bucket (what begins with `prefix`), and frees the memory that the store keeps its objects in. */
export async function emptyStore(prefix = ''): Promise<void> {
  const { url, region, credentials, bucket } = testS3()
  const client = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
  for (;;) {
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix }))
    if (Contents.length === 0) break
    const Objects = Contents.map(({ Key }) => ({ Key }))
    await client.send(new DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects } }))
  }
  client.destroy()
  const ceph = process.env.TIMONE_TEST_CEPH_DIR
  if (ceph !== undefined && ceph !== '') execFileSync('scripts/services', ['gc', ceph], { stdio: 'ignore' })
}
