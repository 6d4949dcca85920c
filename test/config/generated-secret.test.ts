import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SecretBox } from '../../src/auth/secret-box.ts'
import {
  readOrMakeSecret,
  readSecret,
  SECRET_KEYS,
  secretPath,
  TOKEN_SECRET,
} from '../../src/config/generated-secret.ts'

let folder: string

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'timone secret-'))
})

afterEach(() => rm(folder, { recursive: true }))

describe('readOrMakeSecret', () => {
  test('generates 256 bits, mode 0600 in a folder of mode 0700, and keeps them', async () => {
    const data = path.join(folder, 'a', 'data')
    const secret = await readOrMakeSecret(data, TOKEN_SECRET)
    expect(Buffer.from(secret, 'base64url')).toHaveLength(32)
    expect((await stat(secretPath(data, TOKEN_SECRET))).mode & 0o777).toBe(0o600)
    expect((await stat(data)).mode & 0o777).toBe(0o700)
    expect(await readdir(data)).toEqual(['token-secret'])
    expect(await readOrMakeSecret(data, TOKEN_SECRET)).toBe(secret)
    expect(await readOrMakeSecret(path.join(folder, 'other'), TOKEN_SECRET)).not.toBe(secret)
  })

  test('generates an encryption key that Fernet takes, in a file of its own', async () => {
    const keys = await readOrMakeSecret(folder, SECRET_KEYS)
    expect(keys).toMatch(/^[A-Za-z0-9_-]{43}=$/)
    expect(new SecretBox([keys]).open(new SecretBox([keys]).seal('text'))).toBe('text')
    expect(await readdir(folder)).toEqual(['secret-keys'])
    expect((await stat(secretPath(folder, SECRET_KEYS))).mode & 0o777).toBe(0o600)
  })

  test('gives all who start at once the same secret', async () => {
    const secrets = await Promise.all(
      Array.from({ length: 20 }, () => readOrMakeSecret(folder, TOKEN_SECRET)),
    )
    expect(new Set(secrets).size).toBe(1)
    expect(await readdir(folder)).toEqual(['token-secret'])
  })

  test('says what to do when the folder cannot be made', async () => {
    await writeFile(path.join(folder, 'file'), '')
    await expect(readOrMakeSecret(path.join(folder, 'file', 'data'), TOKEN_SECRET)).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining('TIMONE_DATA') as string,
    })
  })
})

describe('readSecret', () => {
  test('finds nothing without making anything', async () => {
    expect(await readSecret(path.join(folder, 'data'), TOKEN_SECRET)).toBeUndefined()
    expect(await readdir(folder)).toEqual([])
  })

  test('takes a secret written by hand, without the line break', async () => {
    await writeFile(secretPath(folder, TOKEN_SECRET), 'by hand\n', { mode: 0o600 })
    expect(await readSecret(folder, TOKEN_SECRET)).toBe('by hand')
  })

  test.each([0o640, 0o604, 0o660, 0o644])('refuses a file of mode %o, without its content', async (mode) => {
    await writeFile(secretPath(folder, TOKEN_SECRET), 'sesame')
    await chmod(secretPath(folder, TOKEN_SECRET), mode)
    const error = await readSecret(folder, TOKEN_SECRET).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'config', message: expect.stringContaining('chmod 600') as string })
    expect(String(error)).not.toContain('sesame')
  })

  test('refuses an empty file', async () => {
    await writeFile(secretPath(folder, TOKEN_SECRET), '\n', { mode: 0o600 })
    await expect(readSecret(folder, TOKEN_SECRET)).rejects.toMatchObject({ code: 'config' })
    expect(await readFile(secretPath(folder, TOKEN_SECRET), 'utf8')).toBe('\n')
  })
})
