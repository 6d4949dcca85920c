import type { Readable } from 'node:stream'

/**
 * Cuts a byte stream at `separator`, without it; what follows the last one is given too unless it is empty. Whole
 * chunks' worth at a time: one wait for hundreds of records.
 */
export async function* records(source: Readable, separator: number): AsyncGenerator<Buffer[]> {
  let rest: Buffer | undefined
  for await (const chunk of source as AsyncIterable<Buffer>) {
    const bytes: Buffer = rest === undefined ? chunk : Buffer.concat([rest, chunk])
    const found: Buffer[] = []
    let start = 0
    for (let end = bytes.indexOf(separator); end !== -1; end = bytes.indexOf(separator, start)) {
      found.push(bytes.subarray(start, end))
      start = end + 1
    }
    rest = start === bytes.length ? undefined : bytes.subarray(start)
    if (found.length > 0) yield found
  }
  if (rest !== undefined) yield [rest]
}
