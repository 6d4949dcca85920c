import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readOrMakeTokenSecret, readTokenSecret, tokenSecretPath } from '../../src/config/token-secret.ts'

let folder: string

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'timone secret-'))
})

afterEach(() => rm(folder, { recursive: true }))

describe('readOrMakeTokenSecret', () => {
  test('generates 256 bits, mode 0600 in a folder of mode 0700, and keeps them', async () => {
    const data = path.join(folder, 'a', 'data')
    const secret = await readOrMakeTokenSecret(data)
    expect(Buffer.from(secret, 'base64url')).toHaveLength(32)
    expect((await stat(tokenSecretPath(data))).mode & 0o777).toBe(0o600)
    expect((await stat(data)).mode & 0o777).toBe(0o700)
    expect(await readdir(data)).toEqual(['token-secret'])
    expect(await readOrMakeTokenSecret(data)).toBe(secret)
    expect(await readOrMakeTokenSecret(path.join(folder, 'other'))).not.toBe(secret)
  })

  test('gives all who start at once the same secret', async () => {
    const secrets = await Promise.all(Array.from({ length: 20 }, () => readOrMakeTokenSecret(folder)))
    expect(new Set(secrets).size).toBe(1)
    expect(await readdir(folder)).toEqual(['token-secret'])
  })

  test('says what to do when the folder cannot be made', async () => {
    await writeFile(path.join(folder, 'file'), '')
    await expect(readOrMakeTokenSecret(path.join(folder, 'file', 'data'))).rejects.toMatchObject({
      code: 'config',
      message: expect.stringContaining('TIMONE_DATA') as string,
    })
  })
})

describe('readTokenSecret', () => {
  test('finds nothing without making anything', async () => {
    expect(await readTokenSecret(path.join(folder, 'data'))).toBeUndefined()
    expect(await readdir(folder)).toEqual([])
  })

  test('takes a secret written by hand, without the line break', async () => {
    await writeFile(tokenSecretPath(folder), 'by hand\n', { mode: 0o600 })
    expect(await readTokenSecret(folder)).toBe('by hand')
  })

  test.each([0o640, 0o604, 0o660, 0o644])('refuses a file of mode %o, without its content', async (mode) => {
    await writeFile(tokenSecretPath(folder), 'sesame')
    await chmod(tokenSecretPath(folder), mode)
    const error = await readTokenSecret(folder).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'config', message: expect.stringContaining('chmod 600') as string })
    expect(String(error)).not.toContain('sesame')
  })

  test('refuses an empty file', async () => {
    await writeFile(tokenSecretPath(folder), '\n', { mode: 0o600 })
    await expect(readTokenSecret(folder)).rejects.toMatchObject({ code: 'config' })
    expect(await readFile(tokenSecretPath(folder), 'utf8')).toBe('\n')
  })
})
