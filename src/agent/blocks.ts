/** The largest block, bytes: what a download reads from its socket and writes to its file at a time. */
export const BLOCK: number = 512 * 1024
const LEAST_BLOCK = 64 * 1024
/** Bytes of blocks of one size that are kept for the next. */
const KEPT = 16 * 2 ** 20

const free = new Map<number, Buffer[]>()

/** A block for up to `bytes`, or {@link BLOCK}; its content is whatever it was. To be given back when nobody uses it. */
export function takeBlock(bytes: number): Buffer {
  const size = sizeFor(bytes)
  return free.get(size)?.pop() ?? Buffer.allocUnsafeSlow(size)
}

/** Nobody, the kernel included, reads or writes `block` any more. */
export function giveBlock(block: Buffer): void {
  const blocks = free.get(block.length) ?? []
  free.set(block.length, blocks)
  if (blocks.length < KEPT / block.length) blocks.push(block)
}

function sizeFor(bytes: number): number {
  let size = LEAST_BLOCK
  while (size < bytes && size < BLOCK) size *= 2
  return size
}
