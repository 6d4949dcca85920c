import { describe, expect, test } from 'vitest'
import { MAX_POLICY_LENGTH, sessionPolicy } from '../../src/access/policy.ts'
import { sessionNameFor } from '../../src/access/sts.ts'

describe('the session policy', () => {
  test('a download may get objects of one repository, and nothing else', () => {
    const policy = sessionPolicy({ bucket: 'lfs', prefix: 'team/foo/bar/', operation: 'download' })
    expect(JSON.parse(policy)).toEqual({
      Version: '2012-10-17',
      Statement: [{ Effect: 'Allow', Action: ['s3:GetObject'], Resource: 'arn:aws:s3:::lfs/team/foo/bar/*' }],
    })
  })

  test('an upload may put, and manage its own unfinished parts: no reading, listing or deleting', () => {
    const policy = sessionPolicy({
      partition: 'aws-cn',
      bucket: 'lfs',
      prefix: 'foo/bar/',
      operation: 'upload',
    })
    expect(JSON.parse(policy).Statement).toEqual([
      {
        Effect: 'Allow',
        Action: ['s3:PutObject', 's3:AbortMultipartUpload', 's3:ListMultipartUploadParts'],
        Resource: 'arn:aws-cn:s3:::lfs/foo/bar/*',
      },
    ])
  })

  test('stays under the limit with the longest names', () => {
    const prefix = `${'p'.repeat(500)}/${'o'.repeat(100)}/${'r'.repeat(100)}/`
    const policy = sessionPolicy({ bucket: 'b'.repeat(63), prefix, operation: 'upload' })
    expect(policy.length).toBeLessThanOrEqual(MAX_POLICY_LENGTH)
  })

  test.each(['a*/', 'a?/', 'a$' + '{x}/'])('a prefix like %s would match more than it says', (prefix) => {
    expect(() => sessionPolicy({ bucket: 'b', prefix, operation: 'upload' })).toThrow(/must not contain/)
  })

  test('a prefix without a slash at its end would open its longer namesakes too', () => {
    expect(() => sessionPolicy({ bucket: 'b', prefix: 'foo/bar', operation: 'upload' })).toThrow(TypeError)
  })

  test('a prefix that is too long is a mistake of the settings', () => {
    expect(() => sessionPolicy({ bucket: 'b', prefix: `${'p'.repeat(2048)}/`, operation: 'upload' })).toThrow(
      expect.objectContaining({ code: 'config' }),
    )
  })
})

test.each([
  ['ada', 'ada'],
  ['a', 'a_'],
  ['ada@example.org', 'ada@example.org'],
  ['Ада Лавлейс', '___________'],
  ['a b:c/d', 'a_b_c_d'],
  ['x'.repeat(300), 'x'.repeat(64)],
])('%s as the name of a session', (subject, name) => {
  expect(sessionNameFor(subject)).toBe(name)
  expect(name).toMatch(/^[\w+=,.@-]{2,64}$/)
})
