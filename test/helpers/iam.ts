import { createHash } from 'node:crypto'
import { signHeaders } from '../../src/storage/sigv4.ts'
import type { TestS3 } from './s3.ts'

/** Calls IAM of the S3 server, as the user of the tests (AWS IAM API Reference; Ceph: "STS in Ceph"). Gives the XML. */
export async function callIam(
  s3: TestS3,
  action: string,
  parameters: Record<string, string>,
): Promise<string> {
  const body = new URLSearchParams({ Action: action, Version: '2010-05-08', ...parameters }).toString()
  const url = new URL('/', s3.url)
  const headers = signHeaders(
    'POST',
    url,
    { 'content-type': 'application/x-www-form-urlencoded' },
    createHash('sha256').update(body).digest('hex'),
    { keys: s3.credentials, region: s3.region, service: 'iam', date: new Date() },
  )
  const answer = await fetch(url, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/x-www-form-urlencoded' },
    body,
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${action}: ${answer.status} ${text}`)
  return text
}

/** What a role must know of the issuer that it trusts. */
export interface TrustedIssuer {
  url: string
  /** SHA-1 of the certificate that goes with its key, hexadecimal. */
  thumbprint: string
}

/**
 * A role of the store for whoever has a token of `issuer` for `audience`; it may do anything in the bucket.
 * Gives its ARN, and what takes both away again.
 */
export async function createFederatedRole(
  s3: TestS3,
  issuer: TrustedIssuer,
  audience: string,
): Promise<{ roleArn: string; remove: () => Promise<void> }> {
  const name = new URL(issuer.url).host
  const provider = `arn:aws:iam:::oidc-provider/${name}`
  const role = `ci-${name.replace(/\W/g, '-')}`
  const statement = (parts: object): string =>
    JSON.stringify({ Version: '2012-10-17', Statement: [{ Effect: 'Allow', ...parts }] })
  await callIam(s3, 'CreateOpenIDConnectProvider', {
    Url: issuer.url,
    'ClientIDList.member.1': audience,
    'ThumbprintList.member.1': issuer.thumbprint,
  })
  await callIam(s3, 'CreateRole', {
    RoleName: role,
    Path: '/',
    AssumeRolePolicyDocument: statement({
      Principal: { Federated: [provider] },
      Action: ['sts:AssumeRoleWithWebIdentity'],
      Condition: { StringEquals: { [`${name}:app_id`]: audience } },
    }),
  })
  await callIam(s3, 'PutRolePolicy', {
    RoleName: role,
    PolicyName: 'bucket',
    PolicyDocument: statement({
      Action: ['s3:*'],
      Resource: [`arn:aws:s3:::${s3.bucket}`, `arn:aws:s3:::${s3.bucket}/*`],
    }),
  })
  return {
    roleArn: `arn:aws:iam:::role/${role}`,
    remove: async () => {
      await callIam(s3, 'DeleteRolePolicy', { RoleName: role, PolicyName: 'bucket' })
      await callIam(s3, 'DeleteRole', { RoleName: role })
      await callIam(s3, 'DeleteOpenIDConnectProvider', { OpenIDConnectProviderArn: provider })
    },
  }
}
