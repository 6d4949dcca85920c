import { randomBytes } from 'node:crypto'

/** The S3 server that the tests use. */
export interface TestS3 {
  url: string
  region: string
  bucket: string
  credentials: { accessKeyId: string; secretAccessKey: string }
  roleArn: string
  /** Another one for each call, ends with a slash: tests never see each other's objects. */
  prefix: string
}

/** Reads `TIMONE_TEST_S3_*`. Tests that need the server fail without it: a suite that skips itself proves nothing. */
export function testS3(): TestS3 {
  const read = (name: string): string => {
    const value = process.env[`TIMONE_TEST_S3_${name}`]
    if (value) return value
    throw new Error(
      `TIMONE_TEST_S3_${name} is not set: these tests need an S3 server. ` +
        'Run them with `scripts/services run -- vitest run …`, or set TIMONE_TEST_S3_{URL,REGION,BUCKET,KEY,SECRET,ROLE_ARN}.',
    )
  }
  return {
    url: read('URL'),
    region: read('REGION'),
    bucket: read('BUCKET'),
    credentials: { accessKeyId: read('KEY'), secretAccessKey: read('SECRET') },
    roleArn: read('ROLE_ARN'),
    prefix: `test-${randomBytes(6).toString('hex')}/`,
  }
}
