import { TimoneError } from '../errors.ts'
import type { Operation } from './credentials.ts'

/** AWS: an inline session policy has at most 2048 characters. */
export const MAX_POLICY_LENGTH = 2048

/**
 * What the direction needs, and nothing else: no listing, no deleting, no reading for who uploads.
 * `AbortMultipartUpload` and `ListMultipartUploadParts` need an upload id, which only its starter has.
 */
const ACTIONS: Record<Operation, readonly string[]> = {
  download: ['s3:GetObject'],
  upload: ['s3:PutObject', 's3:AbortMultipartUpload', 's3:ListMultipartUploadParts'],
}

/** Characters that a policy reads as pattern or variable. */
const PATTERN = /[*?$]/

/**
 * The inline session policy of an `AssumeRole` call: one repository's prefix, one direction.
 * `prefix` is the whole prefix of the repository and ends with a slash. `partition` is `aws`, `aws-cn`, …
 * @throws {TimoneError} `config` when bucket or prefix would be read as a pattern, or the policy gets too long.
 */
export function sessionPolicy(options: {
  partition?: string
  bucket: string
  prefix: string
  operation: Operation
}): string {
  const { partition = 'aws', bucket, prefix, operation } = options
  if (!prefix.endsWith('/')) throw new TypeError('the prefix of a repository ends with a slash')
  if (PATTERN.test(bucket) || PATTERN.test(prefix)) {
    throw new TimoneError('config', 'the bucket and the prefix must not contain any of * ? $')
  }
  const policy = JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      { Effect: 'Allow', Action: ACTIONS[operation], Resource: `arn:${partition}:s3:::${bucket}/${prefix}*` },
    ],
  })
  if (policy.length > MAX_POLICY_LENGTH) {
    throw new TimoneError('config', 'the prefix is too long for a session policy (2048 characters)')
  }
  return policy
}
