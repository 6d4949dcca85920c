import { execFileSync } from 'node:child_process'
import { describe, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'

/** The key of the Fernet specification's own vectors. */
const KEY = 'cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4='
const BYTES = Buffer.from(KEY, 'base64url')
const TEXTS = ['', 'a', 'sixteen bytes!!!', `ghs_${'x'.repeat(516)}`, 'Zürich ☃ \u{1f511}']

function python(program: string, input: unknown): unknown {
  const output = execFileSync('/usr/bin/python3', ['-c', program], { input: JSON.stringify(input) })
  return JSON.parse(output.toString())
}

describe('SecretBox', () => {
  test('opens the token of the specification (generate.json, verify.json)', () => {
    const token =
      'gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=='
    expect(new SecretBox([KEY]).open(token)).toBe('hello')
    expect(new SecretBox([KEY]).open(token.replaceAll('=', ''))).toBe('hello')
  })

  test('seals what python-cryptography decrypts', () => {
    const box = new SecretBox([KEY])
    const program = `import json, sys
from cryptography.fernet import Fernet
key, tokens = json.load(sys.stdin)
print(json.dumps([Fernet(key).decrypt(token.encode(), ttl=60).decode() for token in tokens]))`
    expect(python(program, [KEY, TEXTS.map((text) => box.seal(text))])).toEqual(TEXTS)
  })

  test('opens what python-cryptography encrypts', () => {
    const program = `import json, sys
from cryptography.fernet import Fernet
key, texts = json.load(sys.stdin)
print(json.dumps([Fernet(key).encrypt(text.encode()).decode() for text in texts]))`
    const tokens = python(program, [KEY, TEXTS]) as string[]
    expect(tokens.map((token) => new SecretBox([KEY]).open(token))).toEqual(TEXTS)
  })

  test.each([
    ['base64, url-safe', KEY],
    ['base64 without padding', KEY.slice(0, 43)],
    ['base64 of RFC 4648, section 4', BYTES.toString('base64')],
    ['hex', BYTES.toString('hex')],
    ['hex in capitals', BYTES.toString('hex').toUpperCase()],
    ['with a line break', `${KEY}\n`],
  ])('takes a key in %s', (_, spelling) => {
    expect(new SecretBox([spelling]).open(new SecretBox([KEY]).seal('x'))).toBe('x')
  })

  test('takes keys as 32 characters and in base32', () => {
    const raw = new SecretBox(['0123456789abcdefghijklmnopqrstuv'])
    for (const base32 of [
      'GAYTEMZUGU3DOOBZMFRGGZDFMZTWQ2LKNNWG23TPOBYXE43UOV3A====',
      'gaytemzugu3doobzmfrggzdfmztwq2lknnwg23tpobyxe43uov3a',
    ])
      expect(new SecretBox([base32]).open(raw.seal('x'))).toBe('x')
  })

  test.each(['', 'short', 'x'.repeat(33), 'x'.repeat(45), `${KEY}${KEY}`, 'ü'.repeat(32)])(
    'refuses the key %j and does not repeat it',
    (key) => {
      const make = () => new SecretBox([KEY, key])
      expect(make).toThrow(expect.objectContaining({ code: 'config' }) as Error)
      expect(make).toThrow(/^key 2 of secrets.keys/)
      if (key !== '') expect(make).not.toThrow(key)
    },
  )

  test('opens with any key of the list and seals with the first', () => {
    const [older, newer] = [generateKey(), generateKey()]
    const sealed = new SecretBox([older]).seal('text')
    const both = new SecretBox([newer, older])
    expect(both.open(sealed)).toBe('text')
    expect(both.isCurrent(sealed)).toBe(false)
    expect(both.isCurrent(both.seal('text'))).toBe(true)
    expect(new SecretBox([newer]).open(both.seal('text'))).toBe('text')
  })

  test('says which keys it has when none fits, and nothing of the secret', () => {
    const box = new SecretBox([generateKey()])
    const sealed = new SecretBox([KEY]).seal('sesame')
    expect(() => box.open(sealed)).toThrow(box.keyId)
    expect(() => box.open(sealed)).not.toThrow(/sesame/)
    expect(box.keyId).toMatch(/^[0-9a-f]{8}$/)
    expect(new SecretBox([BYTES.toString('hex')]).keyId).toBe(new SecretBox([KEY]).keyId)
  })

  test('refuses what was changed, anywhere', () => {
    const box = new SecretBox([KEY])
    const sealed = Buffer.from(box.seal('text'), 'base64url')
    for (let at = 0; at < sealed.length; at += 7) {
      const changed = Buffer.from(sealed)
      changed[at] = (changed[at] as number) ^ 1
      expect(() => box.open(changed.toString('base64url'))).toThrow(/cannot be decrypted/)
    }
    for (const garbage of ['', 'gAAA', 'not base64!', 'x'.repeat(4000)])
      expect(() => box.open(garbage)).toThrow(/cannot be decrypted/)
  })
})
