import { Readable, Writable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox

beforeEach(async () => {
  box = await makeSandbox()
})

afterEach(() => box.remove())

const COMMANDS = [
  ['serve'],
  ['agent'],
  ['install'],
  ['uninstall'],
  ['init'],
  ['push'],
  ['pull'],
  ['fetch'],
  ['token'],
  ['token', 'create'],
  ['token', 'inspect'],
  ['config'],
  ['completion'],
]

describe('help', () => {
  test('--help lists every command, on stdout', async () => {
    const { code, stdout, stderr } = await box.timone(['--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const [name] of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'))
    expect(await box.timone(['help'])).toEqual({ code, stdout, stderr })
  })

  test.each(COMMANDS.map((words) => [words.join(' ')]))('%s --help has examples', async (words) => {
    const { code, stdout, stderr } = await box.timone([...words.split(' '), '--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(new RegExp(`^Usage: timone ${words}\\b`))
    const [, examples = ''] = stdout.split('\nExamples:\n')
    expect(examples).toMatch(/^ {2}\S/)
  })

  test('without a command it is shown on stderr, as a usage error', async () => {
    for (const args of [[], ['token']]) {
      const { code, stdout, stderr } = await box.timone(args)
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
      expect(stderr).toContain('Commands:')
    }
  })
})

test('--version', async () => {
  for (const option of ['--version', '-V']) {
    expect(await box.timone([option])).toEqual({ code: 0, stdout: `${manifest.version}\n`, stderr: '' })
  }
})

describe('usage errors are one line on stderr, exit code 2, with the nearest match', () => {
  test.each([
    [['instal'], "unknown command 'instal' (Did you mean install?)"],
    [['sevre'], "unknown command 'sevre' (Did you mean serve?)"],
    [['token', 'crate'], "unknown command 'crate' (Did you mean create?)"],
    [['serve', '--listn', 'x'], "unknown option '--listn' (Did you mean --listen?)"],
    [['token', 'create', '--usr', 'bob'], "unknown option '--usr' (Did you mean --user?)"],
    [['--versoin'], "unknown option '--versoin' (Did you mean --version?)"],
    [['xyzzy'], "unknown command 'xyzzy'"],
    [['serve', '--listen'], "option '--listen <host:port>' argument missing"],
    [['init'], "missing required argument 'url'"],
    [['install', 'here'], "too many arguments for 'install'. Expected 0 arguments but got 1."],
  ])('%j', async (args, message) => {
    expect(await box.timone(args)).toEqual({ code: 2, stdout: '', stderr: `timone: ${message}\n` })
  })
})

describe('failures', () => {
  test('of the settings stop the server before it starts', async () => {
    const { code, stdout, stderr } = await box.timone(['serve', '--listen', '0.0.0.0:0'])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^timone: the listen address 0\.0\.0\.0 is public .*\n$/)
  })

  test('that nobody expected are told in one line, with more on demand', async () => {
    const broken = (): Writable =>
      new Writable({
        write() {
          throw new Error('broken\n\u001b[31mscreen')
        },
      })
    const { code, stderr } = await box.timone(['config'], { stdout: broken() })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^timone: internal error: broken \[31mscreen\ntimone: run it again with .*\n$/)
    const traced = await box.timone(['config'], {
      stdout: broken(),
      env: { ...box.env, TIMONE_LOG_LEVEL: 'debug' },
    })
    expect(traced.stderr).toMatch(/\n {4}at /)
  })

  test('in reading stdin end the command', async () => {
    const stdin = Readable.from(
      (function* () {
        yield 'eyJ'
        throw new Error('unplugged')
      })(),
    )
    const { code, stderr } = await box.timone(['token', 'inspect'], { stdin })
    expect(code).toBe(1)
    expect(stderr).toContain('unplugged')
  })
})
