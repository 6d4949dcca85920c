import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readFile, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { systemCode, TimoneError } from '../errors.ts'

/** Where the generated token secret of a server with this data folder is kept. */
export function tokenSecretPath(data: string): string {
  return path.join(data, 'token-secret')
}

/**
 * Reads the token secret that an earlier start generated.
 * @returns undefined when there is none
 * @throws {TimoneError} `config` when others may read it, it is empty, or it cannot be read
 */
export async function readTokenSecret(data: string): Promise<string | undefined> {
  const file = tokenSecretPath(data)
  try {
    const { mode } = await stat(file)
    // Windows has no such modes: Node makes them up there.
    if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
      throw new TimoneError(
        'config',
        `${file} may be read by other users: run chmod 600 on it, or delete it to have a new one generated`,
      )
    }
    const secret = (await readFile(file, 'utf8')).trim()
    if (secret === '')
      throw new TimoneError('config', `${file} is empty: delete it to have a new one generated`)
    return secret
  } catch (error) {
    if (error instanceof TimoneError) throw error
    const code = systemCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new TimoneError('config', `cannot read ${file} (${code})`, { cause: error })
  }
}

/**
 * Reads the token secret, or generates one of 256 bits and keeps it, mode 0600. Of several processes that do so at once
 * one wins and the others use its secret; a crash leaves the whole file or none.
 * @throws {TimoneError} `config`
 */
export async function readOrMakeTokenSecret(data: string): Promise<string> {
  const known = await readTokenSecret(data)
  if (known !== undefined) return known
  const file = tokenSecretPath(data)
  const temporary = `${file}.${randomBytes(6).toString('hex')}`
  try {
    await mkdir(data, { recursive: true, mode: 0o700 })
    await writeDurably(temporary, `${randomBytes(32).toString('base64url')}\n`)
    try {
      // link, unlike rename, never replaces a secret that another process has just made.
      await link(temporary, file)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
    } finally {
      await unlink(temporary)
    }
    await syncFolder(data)
  } catch (error) {
    const code = systemCode(error)
    throw new TimoneError(
      'config',
      `cannot keep a token secret in ${data} (${code}): set TIMONE_DATA to a folder that can be written, or TIMONE_TOKEN_SECRET`,
      { cause: error },
    )
  }
  const made = await readTokenSecret(data)
  if (made === undefined) throw new TimoneError('config', `${file} disappeared while it was made`)
  return made
}

async function writeDurably(file: string, text: string): Promise<void> {
  const handle = await open(file, 'wx', 0o600)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Windows cannot open folders.
  if (process.platform === 'win32') return
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
