import { createHash } from 'node:crypto'

/** What the head of a program says of it. */
export interface Executable {
  format: 'ELF' | 'Mach-O' | 'PE'
  machine: 'x64' | 'arm64' | 'other'
}

/** Reads the head of an ELF, Mach-O or PE file (64 bits). */
export function readExecutable(file: Buffer): Executable {
  if (file.readUInt32BE(0) === 0x7f454c46) {
    // e_machine: EM_X86_64, EM_AARCH64 (System V ABI).
    const machine = file.readUInt16LE(18)
    return { format: 'ELF', machine: machine === 62 ? 'x64' : machine === 183 ? 'arm64' : 'other' }
  }
  if (file.readUInt32LE(0) === 0xfeedfacf) {
    const cpu = file.readUInt32LE(4)
    return {
      format: 'Mach-O',
      machine: cpu === 0x01000007 ? 'x64' : cpu === 0x0100000c ? 'arm64' : 'other',
    }
  }
  const head = file.readUInt32LE(0x3c)
  if (file.toString('latin1', 0, 2) !== 'MZ' || file.toString('latin1', head, head + 4) !== 'PE\0\0')
    throw new TypeError('not a program')
  const machine = file.readUInt16LE(head + 4)
  return { format: 'PE', machine: machine === 0x8664 ? 'x64' : machine === 0xaa64 ? 'arm64' : 'other' }
}

/** Checks the ad-hoc signature of a Mach-O file as the kernel does: each page against its hash. Gives their number. */
export function checkMachOSignature(file: Buffer): { pages: number; identifier: string; flags: number } {
  const command = commandsOf(file).find(({ kind }) => kind === 0x1d)
  if (command === undefined) throw new Error('there is no signature')
  const offset = file.readUInt32LE(command.at + 8)
  const size = file.readUInt32LE(command.at + 12)
  if (offset + size !== file.length) throw new Error('the signature is not the end of the file')
  if (file.readUInt32BE(offset) !== 0xfade0cc0) throw new Error('no super blob')
  const directory = offset + file.readUInt32BE(offset + 16)
  if (file.readUInt32BE(directory) !== 0xfade0c02) throw new Error('no code directory')
  const word = (at: number): number => file.readUInt32BE(directory + at)
  const [flags, hashes, name, pages, limit] = [word(12), word(16), word(20), word(28), word(32)] as const
  if (limit !== offset) throw new Error('not all of the code is signed')
  const page = 2 ** file.readUInt8(directory + 39)
  if (pages !== Math.ceil(limit / page)) throw new Error('the number of pages is wrong')
  for (let index = 0; index < pages; index++) {
    const bytes = file.subarray(index * page, Math.min((index + 1) * page, limit))
    const hash = createHash('sha256').update(bytes).digest()
    const at = directory + hashes + index * 32
    if (!file.subarray(at, at + 32).equals(hash)) throw new Error(`page ${index} has another hash`)
  }
  const end = file.indexOf(0, directory + name)
  return { pages, identifier: file.toString('latin1', directory + name, end), flags }
}

/** The segments of a Mach-O file, by name: where they lie in the file. */
export function segmentsOf(file: Buffer): Map<string, { offset: number; size: number; memory: number }> {
  const segments = new Map<string, { offset: number; size: number; memory: number }>()
  for (const { kind, at } of commandsOf(file)) {
    if (kind !== 0x19) continue
    const name = file.toString('latin1', at + 8, at + 24).replace(/\0+$/, '')
    const number = (from: number): number => Number(file.readBigUInt64LE(at + from))
    segments.set(name, { memory: number(32), offset: number(40), size: number(48) })
  }
  return segments
}

function commandsOf(file: Buffer): { kind: number; at: number }[] {
  const commands = []
  for (let index = 0, at = 32; index < file.readUInt32LE(16); index++) {
    commands.push({ kind: file.readUInt32LE(at), at })
    at += file.readUInt32LE(at + 4)
  }
  return commands
}
