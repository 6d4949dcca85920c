import { TimoneError } from '../errors.ts'

/** 8 MiB: large enough for full speed on a fast line, small enough to resend after a reset and to hold sixteen of. */
export const DEFAULT_PART_SIZE: number = 8 * 2 ** 20
/** S3: every part but the last has at least 5 MiB. */
export const MIN_PART_SIZE: number = 5 * 2 ** 20
/** S3: at most 5 GiB a part. */
export const MAX_PART_SIZE: number = 5 * 2 ** 30
/** S3: at most 10 000 parts an upload. */
export const MAX_PARTS = 10_000

export interface PlannedPart {
  /** From 1. */
  number: number
  offset: number
  size: number
}

/**
 * The part size for an object: `wanted`, unless S3's limits (5 MiB to 5 GiB a part, 10 000 parts) ask for another.
 * Rounded up to whole MiB so that both ends compute the same plan from the same size.
 */
export function partSizeFor(size: number, wanted: number = DEFAULT_PART_SIZE): number {
  const mebibyte = 2 ** 20
  const needed = Math.ceil(size / MAX_PARTS / mebibyte) * mebibyte
  const partSize = Math.max(MIN_PART_SIZE, Math.min(wanted, MAX_PART_SIZE), needed)
  if (partSize > MAX_PART_SIZE)
    throw new TimoneError('too_large', `an object of ${size} bytes is more than S3 stores`)
  return partSize
}

/** The parts of an object in order; the last one is the rest. An empty object is one empty part. */
export function planParts(size: number, partSize: number): PlannedPart[] {
  const parts: PlannedPart[] = []
  let offset = 0
  do {
    parts.push({ number: parts.length + 1, offset, size: Math.min(partSize, size - offset) })
    offset += partSize
  } while (offset < size)
  return parts
}
