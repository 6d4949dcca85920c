import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readFile, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { systemCode, TimoneError } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'

/** A secret that is generated where none is set, and kept in a file of the data folder. */
export interface GeneratedSecret {
  /** Name of the file. */
  readonly file: string
  /** For messages: what it is, and the variable that sets it. */
  readonly what: string
  readonly env: string
  readonly generate: () => string
}

/** Signs user tokens; 256 bits. */
export const TOKEN_SECRET: GeneratedSecret = {
  file: 'token-secret',
  what: 'a token secret',
  env: 'TIMONE_TOKEN_SECRET',
  generate: () => randomBytes(32).toString('base64url'),
}

/** Encrypt secrets in the database: Fernet keys separated by commas, of which one is generated. */
export const SECRET_KEYS: GeneratedSecret = {
  file: 'secret-keys',
  what: 'an encryption key',
  env: 'TIMONE_SECRET_KEYS',
  // As Python's Fernet.generate_key() spells them.
  generate: () => `${randomBytes(32).toString('base64url')}=`,
}

/** Where the generated secret of a server with this data folder is kept. */
export function secretPath(data: string, secret: GeneratedSecret): string {
  return path.join(data, secret.file)
}

/**
 * Reads the secret that an earlier start generated.
 * @returns undefined when there is none
 * @throws {TimoneError} `config` when others may read it, it is empty, or it cannot be read
 */
export async function readSecret(data: string, secret: GeneratedSecret): Promise<string | undefined> {
  const file = secretPath(data, secret)
  try {
    const { mode } = await stat(file)
    // Windows has no such modes: Node makes them up there.
    if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
      throw new TimoneError(
        'config',
        `${file} may be read by other users: run chmod 600 on it, or delete it to have a new one generated`,
      )
    }
    const text = (await readFile(file, 'utf8')).trim()
    if (text === '')
      throw new TimoneError('config', `${file} is empty: delete it to have a new one generated`)
    return text
  } catch (error) {
    if (error instanceof TimoneError) throw error
    const code = systemCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new TimoneError('config', `cannot read ${file} (${code})`, { cause: error })
  }
}

/**
 * Reads the secret, or generates one and keeps it, mode 0600. Of several processes that do so at once
 * one wins and the others use its secret; a crash leaves the whole file or none.
 * @throws {TimoneError} `config`
 */
export async function readOrMakeSecret(data: string, secret: GeneratedSecret): Promise<string> {
  const known = await readSecret(data, secret)
  if (known !== undefined) return known
  const file = secretPath(data, secret)
  const temporary = `${file}.${randomBytes(6).toString('hex')}`
  try {
    await mkdir(data, { recursive: true, mode: 0o700 })
    await writeDurably(temporary, `${secret.generate()}\n`)
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
      `cannot keep ${secret.what} in ${data} (${code}): set TIMONE_DATA to a folder that can be written, or ${secret.env}`,
      { cause: error },
    )
  }
  const made = await readSecret(data, secret)
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
