import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bundledPackages, cycloneDx, thirdParty } from '../../scripts/bundled-packages.ts'
import { manPage } from '../../scripts/man-page.ts'
import { commandTree } from '../../src/cli/commands.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'timone-release-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** A copy of the sources elsewhere, built there. */
function buildIn(name: string): string {
  const at = join(folder, name)
  mkdirSync(at)
  for (const part of ['src', 'scripts', 'package.json', 'package-lock.json', 'tsconfig.json'])
    cpSync(part, join(at, part), { recursive: true })
  symlinkSync(resolve('node_modules'), join(at, 'node_modules'))
  const env = { PATH: process.env.PATH, HOME: at, TZ: name === 'a' ? 'UTC' : 'Asia/Tokyo' }
  execFileSync(process.execPath, ['scripts/bundle.ts', '--bin'], { cwd: at, env })
  return at
}

describe('a release', () => {
  let first: string
  beforeAll(() => {
    first = buildIn('a')
  })

  test('the same sources give the same bytes, wherever and whenever', () => {
    const second = buildIn('a much longer name of another folder')
    for (const file of ['timone.js', 'parts/main.js', 'parts/program.js', 'parts/transfer-program.js'])
      expect(
        readFileSync(join(first, 'dist', file)).equals(readFileSync(join(second, 'dist', file))),
        file,
      ).toBe(true)
    expect(readFileSync(join(first, 'dist/timone.js'), 'utf8')).not.toContain(folder)
  })

  test('names every package that is in it, with licence and hash', async () => {
    const inputs = JSON.parse(readFileSync(join(first, 'dist/parts/inputs.json'), 'utf8')) as string[]
    const packages = await bundledPackages('.', inputs)
    const names = packages.map(({ name }) => name)
    for (const name of ['@aws-sdk/client-s3', 'commander', 'hono', 'jose', 'kysely', 'zod'])
      expect(names).toContain(name)
    // Tools of the build and the tests are not shipped.
    for (const name of ['esbuild', 'vitest', 'oidc-provider', 'playwright-core'])
      expect(names).not.toContain(name)
    expect(packages.filter(({ integrity }) => integrity === undefined)).toEqual([])
    for (const { name, license } of packages)
      expect(license, name).toMatch(/^(MIT|ISC|Apache-2\.0|BSD-2-Clause|BSD-3-Clause|0BSD|\(.*\))$/)

    const program = { name: 'timone', version: '1.2.3', license: 'MIT' }
    const bom = JSON.parse(cycloneDx(packages, program, ['24.21.0']))
    expect(bom).toMatchObject({ bomFormat: 'CycloneDX', specVersion: '1.6', version: 1 })
    expect(bom.metadata.component.purl).toBe('pkg:npm/timone@1.2.3')
    expect(bom.components).toHaveLength(packages.length + 1)
    const refs = bom.components.map((component: { 'bom-ref': string }) => component['bom-ref'])
    expect(new Set(refs).size).toBe(refs.length)
    expect(bom.dependencies).toEqual([{ ref: 'pkg:npm/timone@1.2.3', dependsOn: refs }])
    const aws = bom.components.find(({ name }: { name: string }) => name === '@aws-sdk/client-s3')
    expect(aws.purl).toMatch(/^pkg:npm\/%40aws-sdk\/client-s3@\d/)
    expect(aws.hashes[0]).toMatchObject({ alg: 'SHA-512' })
    expect(aws.hashes[0].content).toMatch(/^[0-9a-f]{128}$/)

    const text = thirdParty(packages, 'licence of Node')
    for (const name of names) expect(text).toContain(`\n${name} `)
    expect(text).toContain('Permission is hereby granted')
  })

  test('has a manual page of every command, which man takes', () => {
    const io = { stdin: process.stdin, stdout: process.stdout, stderr: process.stderr, env: {}, cwd: '/' }
    const root = commandTree(io, () => {})
    const page = manPage(root, '1.2.3', '2026-11-25')
    for (const command of root.commands)
      expect(page).toContain(`.SS "timone ${command.name().replaceAll('-', '\\-')}`)
    expect(page).toContain('.SS "timone cache prune"')
    expect(page).toContain('\\-\\-recount')
    expect(page).toContain('# in a clone: everything that its transfers need')
    const file = join(folder, 'timone.1')
    writeFileSync(file, page)
    const shown = execFileSync('groff', ['-man', '-Tutf8', '-ww', file], { encoding: 'utf8', stdio: 'pipe' })
    expect(shown).toContain('timone doctor')
  })
})

describe('the GitHub action', () => {
  const setup = resolve('scripts/action/setup')
  const runner = (name: string, env: Record<string, string>) => {
    const at = join(folder, name)
    mkdirSync(join(at, 'bin'), { recursive: true })
    mkdirSync(join(at, 'temp'))
    const script = '#!/bin/sh\necho "$@" >>"$RUNNER_TEMP/calls"\n'
    writeFileSync(join(at, 'bin/timone-linux-x64'), script)
    const sums = execFileSync('sha256sum', ['bin/timone-linux-x64'], { cwd: at })
    writeFileSync(join(at, 'SHA256SUMS'), sums)
    const run = () =>
      execFileSync(setup, {
        encoding: 'utf8',
        stdio: 'pipe',
        env: {
          PATH: process.env.PATH ?? '',
          GITHUB_ACTION_PATH: at,
          GITHUB_PATH: join(at, 'path'),
          RUNNER_TEMP: join(at, 'temp'),
          RUNNER_OS: 'Linux',
          RUNNER_ARCH: 'X64',
          ...env,
        },
      })
    return { at, run }
  }

  test('checks the binary, puts it on PATH and installs it', () => {
    const { at, run } = runner('good', { TIMONE_ACTION_PULL: 'true' })
    run()
    expect(readFileSync(join(at, 'path'), 'utf8')).toBe(`${join(at, 'temp/timone-bin')}\n`)
    expect(readFileSync(join(at, 'temp/calls'), 'utf8')).toBe('--version\ninstall --global\npull\n')
  })

  test('a binary that was changed is not run', () => {
    const { at, run } = runner('changed', {})
    writeFileSync(join(at, 'bin/timone-linux-x64'), '#!/bin/sh\ntouch "$RUNNER_TEMP/calls"\n')
    expect(run).toThrow()
    expect(() => readFileSync(join(at, 'temp/calls'))).toThrow()
  })

  test('a runner that there is no binary for is told so', () => {
    expect(runner('other', { RUNNER_ARCH: 'S390X' }).run).toThrow(
      /no binary for Linux on S390X|Command failed/,
    )
  })
})
