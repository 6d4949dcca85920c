import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { checkMachOSignature, readExecutable, segmentsOf } from '../helpers/executables.ts'

const BINARIES = [
  ['timone-linux-x64', 'ELF', 'x64'],
  ['timone-linux-arm64', 'ELF', 'arm64'],
  ['timone-darwin-x64', 'Mach-O', 'x64'],
  ['timone-darwin-arm64', 'Mach-O', 'arm64'],
  ['timone-win-x64.exe', 'PE', 'x64'],
] as const

/** What Node looks for to know that a program is in it; the last character says whether there is one. */
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2:'

const missing = BINARIES.some(([name]) => !existsSync(`dist/bin/${name}`))

describe.skipIf(missing)(`standalone binaries${missing ? ', not built: scripts/build --bin' : ''}`, () => {
  test.each(BINARIES)('%s: %s for %s with our program in it', (name, format, machine) => {
    const file = readFileSync(`dist/bin/${name}`)
    expect(readExecutable(file)).toEqual({ format, machine })
    expect(file.includes(`${FUSE}1`)).toBe(true)
    expect(file.includes(`${FUSE}0`)).toBe(false)
    for (const part of ['main', 'program', 'transfer-program'])
      expect(file.includes(readFileSync(`dist/parts/${part}.js`)), part).toBe(true)
  })

  test.each(BINARIES.filter(([, format]) => format === 'Mach-O'))('%s is signed, ad hoc', (name) => {
    const file = readFileSync(`dist/bin/${name}`)
    const { pages, identifier, flags } = checkMachOSignature(file)
    expect({ identifier, flags }).toEqual({ identifier: 'timone', flags: 2 })
    expect(pages).toBeGreaterThan(20_000)
    const segments = segmentsOf(file)
    const linkedit = segments.get('__LINKEDIT') as { offset: number; size: number; memory: number }
    expect(linkedit.offset + linkedit.size).toBe(file.length)
    expect(linkedit.memory).toBeGreaterThanOrEqual(linkedit.size)
    expect(segments.get('NODE_SEA')?.size).toBeGreaterThan(1_000_000)
  })
})
