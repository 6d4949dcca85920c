import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { chmod, copyFile, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { delimiter, join, resolve } from 'node:path'
import { parse } from 'smol-toml'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import {
  backendSettings,
  freePort,
  hashTree,
  type RunningServer,
  run,
  startServer,
  TIMONE,
  TOKEN_SECRET,
  World,
  writeRandom,
} from '../helpers/world.ts'

const readme = readFileSync('README.md', 'utf8')

/** The code blocks of a section of the README, in order. */
function blocks(heading: string, language: string): string[] {
  const section = readme.split(`# ${heading}\n`)[1]?.split(/^##+ /m)[0] ?? ''
  return [...section.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(
    ([, text]) => text as string,
  )
}

let issuer: CiIssuer
let server: RunningServer
let world: World
/** Where the checkout is made. */
let workspace: string
/** What the repository holds, by path. */
let pushed: Record<string, string>
let origin: string
/** What the steps of a job wrote, as its log has it. */
let log: string
/** What must not be in there. */
let secrets: string[]

/** Names of the examples, as they are here. */
const here = (text: string): string => text.replaceAll('https://lfs.example.com', server.url)

beforeEach(async () => {
  issuer = await startCiIssuer()
  world = await World.create()
  const port = await freePort()
  // The README's own rules; but for the addresses, which are those of the loopback.
  const rules = (blocks('CI runners without a secret', '')[0] as string)
    .replaceAll(/^issuer = .*$/gm, `issuer = "${issuer.url}"`)
    .replaceAll('https://lfs.example.com', `http://127.0.0.1:${port}`)
  const data = world.path('server')
  server = await startServer(
    data,
    { ...backendSettings('file', data), TIMONE_TRUST: JSON.stringify(parse(rules).trust) },
    { port },
  )
  await mkdir(world.path('bin'))
  await symlink(TIMONE, world.path('bin', 'timone'))
  await world.install()
  await world.signIn(server)
  const repository = await world.repository(server, 'acme/game')
  origin = repository.origin
  const { work } = repository
  pushed = {
    'a.bin': await writeRandom(join(work, 'a.bin'), 3_000_001),
    'art/level 1.bin': await writeRandom(join(work, 'art/level 1.bin'), 70_000),
    'art/one.bin': await writeRandom(join(work, 'art/one.bin'), 1),
  }
  await world.commit(work, 'Add files')
  await world.git(work, 'push', '-q', 'origin', 'main')
  workspace = world.path('runner', 'work space')
  await mkdir(workspace, { recursive: true })
  log = ''
  secrets = ['eyJ', issuer.githubEnv.ACTIONS_ID_TOKEN_REQUEST_TOKEN]
})
afterEach(async () => {
  await server.stop()
  await issuer.stop()
  await world.remove()
})

/** A runner's environment: a home folder of its own, and nothing of the person who pushed. */
async function runnerEnv(env: NodeJS.ProcessEnv): Promise<NodeJS.ProcessEnv> {
  const home = world.path('runner', 'home')
  await mkdir(home)
  const all: NodeJS.ProcessEnv = {
    PATH: process.env.PATH,
    HOME: home,
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_TERMINAL_PROMPT: '0',
    LC_ALL: 'C.UTF-8',
    ...env,
  }
  await step(all, 'git', ['lfs', 'install', '--skip-repo'])
  return all
}

const withTimone = (): NodeJS.ProcessEnv => ({
  PATH: `${world.path('bin')}${delimiter}${process.env.PATH}`,
})

/** One command of a job, which fails with it. */
async function step(env: NodeJS.ProcessEnv, command: string, args: string[]): Promise<void> {
  const { code, stdout, stderr } = await run(command, args, { cwd: workspace, env })
  log += stdout + stderr
  expect(code, `${command} ${args.join(' ')}\n${stdout}${stderr}`).toBe(0)
}

async function script(env: NodeJS.ProcessEnv, shell: string[], text: string): Promise<void> {
  const file = world.path('runner', 'step.sh')
  await writeFile(file, here(text))
  await step(env, shell[0] as string, [...shell.slice(1), file])
}

/** Everything is there, git sees no change, and no secret was said. */
async function expectFilled(env: NodeJS.ProcessEnv): Promise<void> {
  expect(await hashTree(workspace)).toEqual(pushed)
  const status = await run('git', ['status', '--porcelain'], { cwd: workspace, env })
  expect(status.stdout).toBe('')
  for (const secret of secrets) {
    expect(log).not.toContain(secret)
    expect(server.log()).not.toContain(secret)
  }
}

/** What a runner that leaves LFS files alone does before a job's script: GitLab's, and the git plugin of Jenkins. */
async function plainCheckout(env: NodeJS.ProcessEnv): Promise<void> {
  await step(env, 'git', ['init', '-q', '.'])
  await step(env, 'git', ['remote', 'add', 'origin', origin])
  await step(env, 'git', [
    'fetch',
    '-q',
    '--depth',
    '20',
    'origin',
    '+refs/heads/main:refs/remotes/origin/main',
  ])
  await step(env, 'git', ['checkout', '-q', '--force', '--detach', 'refs/remotes/origin/main'])
  expect(await hashTree(workspace)).not.toEqual(pushed)
}

describe('the GitHub Actions workflow', () => {
  interface Step {
    uses: string | undefined
    run: string | undefined
    lfs: boolean
  }
  const steps = (yaml: string): Step[] =>
    (yaml.split(/^ {4}steps:\n/m)[1] as string)
      .split(/^ {6}- /m)
      .slice(1)
      .map((text) => ({
        uses: /^uses: (\S+)/.exec(text)?.[1],
        run:
          /^ *run: \|\n((?: {10}.*\n)+)/m.exec(text)?.[1]?.replaceAll(/^ {10}/gm, '') ??
          /^ *run: (.+)$/m.exec(text)?.[1],
        lfs: /^ {10}lfs: true$/m.test(text),
      }))

  /** As actions/checkout does it: a home folder of its own with a copy of the git settings, and the LFS fetch first. */
  const checkout = async (env: NodeJS.ProcessEnv, lfs: boolean): Promise<void> => {
    const home = join(env.RUNNER_TEMP as string, 'checkout-home')
    await mkdir(home)
    await copyFile(join(env.HOME as string, '.gitconfig'), join(home, '.gitconfig'))
    const own = { ...env, HOME: home, ...(lfs ? {} : { GIT_LFS_SKIP_SMUDGE: '1' }) }
    const git = (...args: string[]): Promise<void> => step(own, 'git', args)
    await git('config', '--global', '--add', 'safe.directory', workspace)
    await git('init', workspace)
    await git('remote', 'add', 'origin', origin)
    await git('config', '--local', 'gc.auto', '0')
    if (lfs) await git('lfs', 'install', '--local')
    const ref = '+refs/heads/main:refs/remotes/origin/main'
    await git('-c', 'protocol.version=2', 'fetch', '--no-tags', '--prune', '--depth=1', 'origin', ref)
    if (lfs) await git('lfs', 'fetch', 'origin', 'refs/remotes/origin/main')
    await git('checkout', '--progress', '--force', '-B', 'main', 'refs/remotes/origin/main')
  }

  /** The release's folder. A script stands for the binary, so that what was just built is what runs. */
  const release = async (): Promise<string> => {
    const folder = world.path('runner', 'release')
    await mkdir(join(folder, 'bin'), { recursive: true })
    const binary = join(folder, 'bin/timone-linux-x64')
    const content = `#!/bin/sh\nexec '${TIMONE}' "$@"\n`
    await writeFile(binary, content)
    await chmod(binary, 0o755)
    const sum = createHash('sha256').update(content).digest('hex')
    await writeFile(join(folder, 'SHA256SUMS'), `${sum}  bin/timone-linux-x64\n`)
    return folder
  }

  test.each([true, false])('with lfs: %s', async (lfs) => {
    const yaml = blocks('A GitHub Actions workflow', 'yaml')[0] as string
    expect(yaml).toMatch(/^ {4}permissions:\n(?: {6}.*\n)*? {6}id-token: write\b/m)
    const temp = world.path('runner', 'te mp')
    await mkdir(temp)
    issuer.claims = { ...CLAIMS.github, repository_id: '123456' }
    const paths = join(temp, 'paths')
    const env = await runnerEnv({
      ...issuer.githubEnv,
      RUNNER_TEMP: temp,
      RUNNER_OS: 'Linux',
      RUNNER_ARCH: 'X64',
    })
    const seen: string[] = []
    for (const { uses, run: text, lfs: wanted } of steps(yaml)) {
      if (uses?.startsWith('actions/checkout@')) {
        expect(wanted).toBe(true)
        await checkout(env, lfs)
        if (lfs) expect(await hashTree(workspace)).toEqual(pushed)
        seen.push('checkout')
      } else if (uses !== undefined) {
        const action = { ...env, GITHUB_ACTION_PATH: await release(), GITHUB_PATH: paths }
        await step(action, 'bash', [resolve('scripts/action/setup')])
        env.PATH = `${(await readFile(paths, 'utf8')).trim()}${delimiter}${env.PATH}`
        seen.push('action')
      } else {
        await script(env, ['bash', '-e'], text as string)
        seen.push('run')
      }
    }
    expect(seen).toEqual(['action', 'run', 'checkout', 'run'])
    expect(log).toContain('as this job (GitHub Actions)')
    await expectFilled(env)
  })
})

test('the GitLab job', async () => {
  const yaml = blocks('A GitLab job', 'yaml')[0] as string
  const [, variable, audience] = /^ {2}id_tokens:\n {4}(\w+):\n {6}aud: (\S+)$/m.exec(yaml) ?? []
  const settings = /^ {2}variables:\n((?: {4}.*\n)+)/m.exec(yaml)?.[1] as string
  const variables = Object.fromEntries(
    [...settings.matchAll(/^ {4}(\w+): "(.*)"/gm)].map(([, name, value]) => [name, value]),
  )
  expect(variables).toEqual({ GIT_LFS_SKIP_SMUDGE: '1' })
  const token = await issuer.sign({
    ...CLAIMS.gitlab,
    project_path: 'acme/game',
    aud: here(audience as string),
  })
  const env = await runnerEnv({ ...withTimone(), ...variables, [variable as string]: token })
  await plainCheckout(env)
  const lines = (yaml.split(/^ {2}script:\n/m)[1] as string).replaceAll(/^ {4}- /gm, '')
  await script(env, ['bash', '-eo', 'pipefail'], lines)
  await expectFilled(env)
})

describe('the Jenkins agent', () => {
  /** A secret file, where the Credentials Binding plugin puts it. */
  const bind = async (groovy: string, content: string): Promise<NodeJS.ProcessEnv> => {
    const variable = /file\(credentialsId: '[\w-]+', variable: '(\w+)'\)/.exec(groovy)?.[1] as string
    const temporary = `${workspace}@tmp`
    const file = join(temporary, 'secretFiles', 'secret')
    await mkdir(join(temporary, 'secretFiles'), { recursive: true })
    await writeFile(file, content, { mode: 0o400 })
    return { WORKSPACE: workspace, WORKSPACE_TMP: temporary, [variable]: file }
  }
  const shell = (groovy: string): string =>
    (/\bsh '''\n([\s\S]*?)'''/.exec(groovy) ?? /\bsh '([^']+)'/.exec(groovy))?.[1] as string

  test('with the id token of the build', async () => {
    const groovy = blocks('A Jenkins agent', 'groovy')[0] as string
    expect(groovy).toContain("GIT_LFS_SKIP_SMUDGE = '1'")
    const sub = 'https://jenkins.example.com/job/game/'
    const token = await issuer.sign({ sub, build_number: 7, aud: server.url })
    const env = await runnerEnv({ ...withTimone(), GIT_LFS_SKIP_SMUDGE: '1', ...(await bind(groovy, token)) })
    await plainCheckout(env)
    // What the step `sh` runs a script with: it writes every command to the log.
    await script(env, ['sh', '-xe'], shell(groovy))
    await expectFilled(env)
  })

  test('with a stored token, which is gone when the step ends', async () => {
    const groovy = blocks('A Jenkins agent', 'groovy')[1] as string
    const command = /store the token of `timone (token create [^`]+)`/.exec(readme)?.[1] as string
    const made = await run(TIMONE, command.split(' '), {
      cwd: world.folder,
      env: { ...world.env, TIMONE_TOKEN_SECRET: TOKEN_SECRET, TIMONE_ENDPOINT_URL: server.url },
    })
    const bound = await bind(groovy, made.stdout)
    secrets.push(made.stdout.trim())
    const env = await runnerEnv({ ...withTimone(), GIT_LFS_SKIP_SMUDGE: '1', ...bound })
    await plainCheckout(env)
    await script(env, ['sh', '-xe'], shell(groovy))
    await expectFilled(env)
    expect(log).toContain(`signed in to ${server.url} as jenkins`)
    expect(existsSync(join(bound.WORKSPACE_TMP as string, 'lfs-credentials'))).toBe(false)
  })
})
