import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseMessage } from '../../src/agent/protocol.ts'
import { isTimoneError } from '../../src/errors.ts'

describe('parseMessage', () => {
  test('reads init as git-lfs writes it', () => {
    const line =
      '{"event":"init","operation":"download","remote":"origin","concurrent":true,"concurrenttransfers":3}'
    expect(parseMessage(line)).toEqual({
      event: 'init',
      operation: 'download',
      remote: 'origin',
      concurrent: true,
      concurrenttransfers: 3,
    })
  })

  test('reads a transfer, with the year 1 that stands for no expiry and without header', () => {
    const line =
      '{"event":"upload","oid":"ab","size":3,"path":"/x","action":{"href":"https://h/","expires_at":"0001-01-01T00:00:00Z"}}'
    expect(parseMessage(line)).toEqual({
      event: 'upload',
      oid: 'ab',
      size: 3,
      path: '/x',
      action: { href: 'https://h/', header: {}, expires_at: '0001-01-01T00:00:00Z' },
    })
  })

  test('reads the null action of standalone mode', () => {
    expect(parseMessage('{"event":"download","oid":"ab","size":3,"action":null}')).toMatchObject({
      action: null,
    })
  })

  test.each([
    '',
    '{',
    '[]',
    'null',
    '7',
    '"init"',
    '{}',
    '{"event":"dance"}',
    '{"event":"init","operation":"both"}',
  ])('refuses %s', (line) => {
    expect(() => parseMessage(line)).toThrow(/init|line|event/)
  })

  test('never quotes the line, which may hold a token', () => {
    fc.assert(
      fc.property(fc.string(), (noise) => {
        try {
          parseMessage(`{"event":"${JSON.stringify(noise).slice(1, -1)}","header":"s3cret-token"`)
        } catch (error) {
          expect(isTimoneError(error, 'invalid')).toBe(true)
          expect((error as Error).message).not.toContain('s3cret-token')
        }
      }),
    )
  })
})
