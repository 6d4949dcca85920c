import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** A package of npm that is in what we ship. */
export interface BundledPackage {
  readonly name: string
  readonly version: string
  /** SPDX expression. */
  readonly license: string
  /** What its licence files say; empty where it has none. */
  readonly text: string
  /** Of its archive at npm, from package-lock.json; undefined: not known. */
  readonly integrity: string | undefined
}

/** Up to the last package of a path, where one package holds others. */
const PACKAGE_FOLDER = /^.*node_modules\/(?:@[^/]+\/)?[^/]+/

/**
 * The packages that esbuild took something from, by name and version.
 * @param inputs paths of bundled files, relative to `root`
 * @throws when a package does not say what its licence is
 */
export async function bundledPackages(root: string, inputs: readonly string[]): Promise<BundledPackage[]> {
  const folders = new Set(
    inputs.flatMap((path) => /node_modules\/.*$/.exec(path)?.[0].match(PACKAGE_FOLDER)?.[0] ?? []),
  )
  const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { integrity?: string }>
  }
  const found = await Promise.all(
    [...folders].map((folder) => readPackage(root, folder, lock.packages[folder]?.integrity)),
  )
  return found.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
}

const keyOf = ({ name, version }: BundledPackage): string => `${name}@${version}`

async function readPackage(
  root: string,
  folder: string,
  integrity: string | undefined,
): Promise<BundledPackage> {
  const at = join(root, folder)
  const { name, version, license } = JSON.parse(await readFile(join(at, 'package.json'), 'utf8'))
  if (typeof license !== 'string' || license === '') throw new Error(`${folder} names no licence`)
  const files = (await readdir(at)).filter((file) => /^(licen[cs]e|notice|copying)/i.test(file)).sort()
  const texts = await Promise.all(files.map((file) => readFile(join(at, file), 'utf8')))
  return { name, version, license, text: texts.map((text) => text.trim()).join('\n\n'), integrity }
}

/** The licences of what is in the program, for people. */
export function thirdParty(packages: readonly BundledPackage[], nodeLicense: string): string {
  const rule = '-'.repeat(78)
  const parts = packages.map(({ name, version, license, text }) => {
    return `${rule}\n${name} ${version} (${license})\n\n${text === '' ? 'It comes without a text of its licence.' : text}\n`
  })
  const intro =
    'timone holds parts of these packages. The standalone binaries hold Node.js too; its licence is the last.\n'
  return `${intro}\n${parts.join('\n')}\n${rule}\nNode.js\n\n${nodeLicense.trim()}\n`
}

/** A software bill of materials: CycloneDX 1.6, JSON. The same packages give the same bytes. */
export function cycloneDx(
  packages: readonly BundledPackage[],
  program: { name: string; version: string; license: string },
  nodeVersions: readonly string[],
): string {
  const purl = (name: string, version: string): string => `pkg:npm/${name.replace(/^@/, '%40')}@${version}`
  const own = purl(program.name, program.version)
  const components = packages.map(({ name, version, license, integrity }) => ({
    type: 'library',
    'bom-ref': purl(name, version),
    name,
    version,
    licenses: [/[ ()]/.test(license) ? { expression: license } : { license: { id: license } }],
    purl: purl(name, version),
    ...(integrity?.startsWith('sha512-')
      ? { hashes: [{ alg: 'SHA-512', content: Buffer.from(integrity.slice(7), 'base64').toString('hex') }] }
      : {}),
  }))
  const runtimes = nodeVersions.map((version) => ({
    type: 'platform',
    'bom-ref': `pkg:generic/node@${version}`,
    name: 'node',
    version,
    description: 'Runtime of the standalone binaries',
    licenses: [{ license: { id: 'MIT' } }],
    purl: `pkg:generic/node@${version}`,
  }))
  const all = [...components, ...runtimes]
  const bom = {
    $schema: 'http://cyclonedx.org/schema/bom-1.6.schema.json',
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      component: {
        type: 'application',
        'bom-ref': own,
        name: program.name,
        version: program.version,
        licenses: [{ license: { id: program.license } }],
        purl: own,
      },
    },
    components: all,
    dependencies: [{ ref: own, dependsOn: all.map((component) => component['bom-ref']) }],
  }
  return `${JSON.stringify(bom, null, 2)}\n`
}
