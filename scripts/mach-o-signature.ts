import { createHash } from 'node:crypto'

/**
 * Ad-hoc signatures of Mach-O files: macOS on Arm starts nothing without one. Layouts as in Apple's
 * `mach-o/loader.h` and xnu's `osfmk/kern/cs_blobs.h`; the signature is what `codesign --sign -` and Go's linker make:
 * hashes of all pages, and no certificate.
 */

const MAGIC_64 = 0xfeedfacf
const HEADER = 32
const LC_SEGMENT_64 = 0x19
const LC_CODE_SIGNATURE = 0x1d
/** Bytes of the load command of a signature. */
const COMMAND = 16

const PAGE_BITS = 12
const PAGE = 2 ** PAGE_BITS
const SUPER_BLOB = 0xfade0cc0
const CODE_DIRECTORY = 0xfade0c02
/** The version with the executable segment, the oldest that macOS on Arm takes. */
const VERSION = 0x20400
const ADHOC = 0x2
const SHA256 = 2
const HASH_SIZE = 32
const DIRECTORY = 88
/** Where its one blob begins in the super blob. */
const BLOB_AT = 20
const MAIN_BINARY = 1

interface Segment {
  /** Where its load command begins. */
  at: number
  fileOffset: number
  fileSize: number
}

interface Layout {
  text: Segment
  linkedit: Segment
  /** Where the load command of the signature begins, or goes. */
  signatureCommand: number
  signed: boolean
  /** Where the load commands end. */
  commandsEnd: number
  /** Where the contents of the file begin. */
  firstSection: number
}

/**
 * `file` with an ad-hoc signature in place of the one it has.
 * @throws {TypeError} when it is no 64-bit Mach-O file for one processor, or has no room for the load command
 */
export function signMachO(file: Buffer, identifier: string): Buffer {
  const layout = readLayout(file)
  const { linkedit, text } = layout
  // What is behind an old signature's begin is that signature; it is always the last thing in the file.
  const oldOffset = layout.signed
    ? file.readUInt32LE(layout.signatureCommand + 8)
    : linkedit.fileOffset + linkedit.fileSize
  const codeLimit = Math.ceil(oldOffset / 16) * 16
  const name = Buffer.from(`${identifier}\0`)
  const pages = Math.ceil(codeLimit / PAGE)
  const directorySize = DIRECTORY + name.length + pages * HASH_SIZE
  const size = BLOB_AT + directorySize

  const signed = Buffer.alloc(codeLimit + size)
  file.copy(signed, 0, 0, Math.min(oldOffset, file.length))
  if (!layout.signed) {
    if (layout.commandsEnd + COMMAND > layout.firstSection)
      throw new TypeError('this file has no room for another load command')
    signed.writeUInt32LE(signed.readUInt32LE(16) + 1, 16)
    signed.writeUInt32LE(signed.readUInt32LE(20) + COMMAND, 20)
  }
  signed.writeUInt32LE(LC_CODE_SIGNATURE, layout.signatureCommand)
  signed.writeUInt32LE(COMMAND, layout.signatureCommand + 4)
  signed.writeUInt32LE(codeLimit, layout.signatureCommand + 8)
  signed.writeUInt32LE(size, layout.signatureCommand + 12)
  // The segment ends where the file does; in memory it takes whole pages, of 16 KiB on Arm.
  const linkeditSize = codeLimit + size - linkedit.fileOffset
  signed.writeBigUInt64LE(BigInt(Math.ceil(linkeditSize / 0x4000) * 0x4000), linkedit.at + 32)
  signed.writeBigUInt64LE(BigInt(linkeditSize), linkedit.at + 48)

  writeSignature(signed, codeLimit, name, pages, text, size, directorySize)
  return signed
}

function writeSignature(
  signed: Buffer,
  codeLimit: number,
  name: Buffer,
  pages: number,
  text: Segment,
  size: number,
  directorySize: number,
): void {
  let at = codeLimit
  const word = (value: number): void => {
    at = signed.writeUInt32BE(value, at)
  }
  const long = (value: number): void => {
    at = signed.writeBigUInt64BE(BigInt(value), at)
  }
  for (const value of [SUPER_BLOB, size, 1, 0, BLOB_AT]) word(value)
  word(CODE_DIRECTORY)
  word(directorySize)
  word(VERSION)
  word(ADHOC)
  word(DIRECTORY + name.length) // offset of the hashes
  word(DIRECTORY) // offset of the identifier
  word(0) // special slots
  word(pages)
  word(codeLimit)
  for (const byte of [HASH_SIZE, SHA256, 0, PAGE_BITS]) at = signed.writeUInt8(byte, at)
  word(0) // spare
  word(0) // scatter
  word(0) // team
  word(0) // spare
  long(0) // limit of code beyond 4 GiB
  long(text.fileOffset)
  long(text.fileSize)
  long(MAIN_BINARY)
  at += name.copy(signed, at)
  for (let page = 0; page < pages; page++) {
    const from = page * PAGE
    const digest = createHash('sha256')
      .update(signed.subarray(from, Math.min(from + PAGE, codeLimit)))
      .digest()
    at += digest.copy(signed, at)
  }
}

function readLayout(file: Buffer): Layout {
  if (file.length < HEADER || file.readUInt32LE(0) !== MAGIC_64)
    throw new TypeError('no 64-bit Mach-O file for one processor')
  const count = file.readUInt32LE(16)
  let at = HEADER
  let text: Segment | undefined
  let linkedit: Segment | undefined
  let signature: number | undefined
  let firstSection = Number.POSITIVE_INFINITY
  for (let index = 0; index < count; index++) {
    const command = file.readUInt32LE(at)
    const length = file.readUInt32LE(at + 4)
    if (command === LC_CODE_SIGNATURE) signature = at
    if (command === LC_SEGMENT_64) {
      const name = file.toString('latin1', at + 8, at + 24).replace(/\0+$/, '')
      const fileOffset = Number(file.readBigUInt64LE(at + 40))
      const segment = { at, fileOffset, fileSize: Number(file.readBigUInt64LE(at + 48)) }
      if (name === '__TEXT') text = segment
      if (name === '__LINKEDIT') linkedit = segment
      const sections = file.readUInt32LE(at + 64)
      for (let section = 0; section < sections; section++) {
        const offset = file.readUInt32LE(at + 72 + section * 80 + 48)
        if (offset > 0) firstSection = Math.min(firstSection, offset)
      }
    }
    at += length
  }
  if (text === undefined || linkedit === undefined) throw new TypeError('no program: a segment is missing')
  return {
    text,
    linkedit,
    signatureCommand: signature ?? at,
    signed: signature !== undefined,
    commandsEnd: at,
    firstSection,
  }
}
