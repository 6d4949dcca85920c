import { resolve } from 'node:path'
import { TimoneError } from '../errors.ts'
import { runGit } from '../remotestorage/git-process.ts'
import { MAIN } from '../remotestorage/main-lock.ts'
import { findRepository, isThere } from './find-space.ts'
import { clean, type Io, print, printJson, say } from './io.ts'
import type { OperatorOptions } from './operator-database.ts'

const MAX_CHANGES = 10_000

/** `timone space log`: what changed in a user's storage, the newest first. */
export async function logSpace(
  login: string,
  options: OperatorOptions & { limit: string },
  io: Io,
): Promise<number> {
  const limit = /^\d{1,5}$/.test(options.limit) ? Number(options.limit) : 0
  if (limit < 1 || limit > MAX_CHANGES) throw new TimoneError('config', `--limit must be 1 to ${MAX_CHANGES}`)
  const gitDir = await findRepository(login, options, io)
  const format = '--format=%H%x00%at%x00%s%x00%(trailers:key=Client,valueonly,separator=%x2C)'
  const text = await runGit(gitDir, ['log', '-z', `--max-count=${limit}`, format, MAIN, '--'])
  const changes = splitFields(text.toString('utf8'))
  if (options.json === true) printJson(io, changes)
  else
    for (const { at, commit, change, client } of changes)
      print(io, clean(`${at}  ${commit.slice(0, 10)}  ${change}  ${client}`))
  return 0
}

/** `timone space export`: a user's storage and its history, in a Git bundle. */
export async function exportSpace(
  login: string,
  file: string,
  options: OperatorOptions,
  io: Io,
): Promise<number> {
  const gitDir = await findRepository(login, options, io)
  const path = resolve(io.cwd, file)
  if (await isThere(path)) throw new TimoneError('exists', `${file} is there already: choose another name`)
  // HEAD as well, or a clone has no branch checked out.
  await runGit(gitDir, ['bundle', 'create', '--quiet', path, 'HEAD', MAIN])
  say(io, `wrote the storage of ${login}: git clone reads it`)
  return 0
}

/** Four fields for each commit; with `-z`, NUL is between commits too. */
function splitFields(text: string): { at: string; commit: string; change: string; client: string }[] {
  const fields = text.split('\0')
  const changes = []
  for (let at = 0; at + 3 < fields.length; at += 4) {
    const [commit = '', seconds = '', change = '', client = ''] = fields.slice(at, at + 4)
    changes.push({
      at: new Date(Number(seconds) * 1000).toISOString(),
      commit,
      change,
      client: client.trim(),
    })
  }
  return changes
}
