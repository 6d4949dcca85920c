import { TimoneError } from '../errors.ts'
import { type CountedObject, type RepositoryUsage, Usage } from '../lfs/usage.ts'
import { parseRepository, repositoryName } from '../repository.ts'
import { parseObjectKey, repositoryPrefix } from '../storage/object-key.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { printBytes, printCount } from './amounts.ts'
import { type Io, print, printJson, say } from './io.ts'
import { openStore } from './open-store.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

export interface UsageCommand extends OperatorOptions {
  readonly repository?: string | undefined
  readonly recount?: boolean | undefined
}

/**
 * `timone usage`: prints what is counted for each repository, after a recount where it is asked for. Gives 0.
 * @throws {TimoneError} `config` for settings that a server would refuse too, or a malformed name; what store or
 *   database threw
 */
export async function usage(options: UsageCommand, io: Io): Promise<number> {
  const only = options.repository === undefined ? undefined : readName(options.repository)
  return withDatabase(options, io, async (database, settings) => {
    const counted = new Usage({ db: database.db, quota: settings.quota })
    if (options.recount === true) {
      const { store, prefix } = await openStore(settings.storage)
      await recount(counted, store, prefix, only)
    }
    const all = (await counted.list()).filter(({ repository }) => only === undefined || repository === only)
    if (options.json === true) printJson(io, { quota: settings.quota, repositories: all })
    else if (all.length === 0) say(io, 'nothing is counted: timone usage --recount looks into the store')
    else print(io, ...table(all, settings.quota))
    return 0
  })
}

/** Both stores list one repository after another, and S3 all in the order of their keys. */
async function recount(
  usage: Usage,
  store: ObjectStore,
  prefix: string,
  only: string | undefined,
): Promise<void> {
  const [org = '', repo = ''] = only?.split('/') ?? []
  const under = only === undefined ? prefix : repositoryPrefix(prefix, parseRepository(org, repo))
  const objects = named(store, prefix, under)[Symbol.asyncIterator]()
  const found = new Set<string>(only === undefined ? [] : [only])
  let next = await objects.next()
  if (only !== undefined && next.done === true) await usage.recount(only, none())
  while (next.done !== true) {
    const { repository } = next.value
    async function* ofOne(): AsyncGenerator<CountedObject> {
      while (next.done !== true && next.value.repository === repository) {
        yield next.value
        next = await objects.next()
      }
    }
    found.add(repository)
    await usage.recount(repository, ofOne())
  }
  if (only !== undefined) return
  const gone = (await usage.list()).map(({ repository }) => repository).filter((name) => !found.has(name))
  await usage.forget(gone)
}

async function* none(): AsyncGenerator<CountedObject> {}

async function* named(
  store: ObjectStore,
  prefix: string,
  under: string,
): AsyncGenerator<CountedObject & { repository: string }> {
  for await (const { key, size } of store.listObjects(under)) {
    const name = parseObjectKey(prefix, key)
    if (name !== undefined) yield { repository: repositoryName(name.repository), oid: name.oid, size }
  }
}

function table(all: readonly RepositoryUsage[], quota: number): string[] {
  const width = Math.max(...all.map(({ repository }) => repository.length))
  return all.map(({ repository, bytes, objects }) => {
    const share = quota === 0 ? '' : `  ${Math.floor((bytes / quota) * 100)} % of ${printBytes(quota)}`
    return `${repository.padEnd(width)}  ${printBytes(bytes)} in ${printCount(objects, 'object')}${share}`
  })
}

function readName(text: string): string {
  const [org = '', repo = '', ...rest] = text.split('/')
  try {
    if (rest.length > 0) throw new TypeError('not org/repo')
    return repositoryName(parseRepository(org, repo))
  } catch (error) {
    throw new TimoneError('config', `'${text}' is no repository: say org/repo`, { cause: error })
  }
}
