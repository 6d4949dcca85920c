import { createHash } from 'node:crypto'
import { TimoneError } from '../errors.ts'
import type { Operation } from './credentials.ts'
import type { S3Site } from './object-location.ts'
import { sessionPolicy } from './policy.ts'
import { type AssumeRole, type RoleSession, sessionNameFor } from './sts.ts'

/** Seconds from the first sign-in during which credentials are renewed: 12 hours, also AWS's longest session. */
export const TOTAL_LIFETIME: number = 12 * 3600

/** AWS STS: no session is shorter. Seconds. */
const MIN_SESSION = 900

/** Whose session, and what it opens: one repository, one direction. */
export interface SessionGrant {
  /** Stable name of the principal. */
  readonly subject: string
  /** Of the repository in the bucket; ends with a slash. */
  readonly prefix: string
  readonly operation: Operation
}

export interface RoleSessionsOptions {
  site: S3Site
  assumeRole: AssumeRole
  roleArn: string
  /** Seconds that a session lasts, `TIMONE_OBJECT_EXPIRESIN`. */
  expiresIn: number
}

/**
 * Sessions of the storage role: a source for the lease broker, which keeps them, and has each asked for once however many
 * callers and servers want it.
 */
export class RoleSessions {
  readonly needsConsent = false
  readonly remedy = 'ask the operator of this server'
  /** Seconds that a session lasts when nothing ends it sooner. */
  readonly duration: number
  /** Handed out only while a third of its life, and five minutes, are left: enough for the transfer that asks. */
  readonly renewBefore: number
  readonly #options: RoleSessionsOptions

  constructor(options: RoleSessionsOptions) {
    this.#options = options
    this.duration = Math.max(MIN_SESSION, Math.min(options.expiresIn, TOTAL_LIFETIME))
    this.renewBefore = Math.max(300, this.duration / 3)
  }

  /** What names the session that all with this grant share. Another role, policy or duration is another session. */
  keyOf(grant: SessionGrant): { owner: string; resource: string } {
    const { site, roleArn } = this.#options
    const made = JSON.stringify([roleArn, site.endpoint, this.#policy(grant), this.duration])
    const setUp = createHash('sha256').update(made).digest('hex').slice(0, 16)
    return {
      owner: `subject:${grant.subject}`,
      resource: JSON.stringify([grant.operation, grant.prefix, setUp]),
    }
  }

  /** For the lease broker. The token that it keeps is the whole session. @throws {TimoneError} what {@link AssumeRole} throws */
  async mint(request: {
    owner: string
    resource: string
    signal: AbortSignal
  }): Promise<{ accessToken: string; expiresAt: number }> {
    const [operation, prefix] = JSON.parse(request.resource) as [Operation, string]
    const grant = { subject: request.owner.slice('subject:'.length), prefix, operation }
    const { expiresAt, ...keys } = await this.assume(grant, this.duration, request.signal)
    return { accessToken: JSON.stringify(keys), expiresAt }
  }

  /** The session that {@link mint} gave. */
  read({ accessToken, expiresAt }: { accessToken: string; expiresAt: number | null }): RoleSession {
    if (expiresAt === null) throw new TimoneError('internal', 'a storage session without an end')
    return { ...(JSON.parse(accessToken) as Omit<RoleSession, 'expiresAt'>), expiresAt }
  }

  /** A session of `seconds`, but of the shortest at least, that nobody keeps. @throws {TimoneError} what {@link AssumeRole} throws */
  assume(grant: SessionGrant, seconds: number, signal?: AbortSignal): Promise<RoleSession> {
    return this.#options.assumeRole({
      policy: this.#policy(grant),
      duration: Math.max(MIN_SESSION, seconds),
      sessionName: sessionNameFor(grant.subject),
      ...(signal === undefined ? {} : { signal }),
    })
  }

  #policy({ prefix, operation }: SessionGrant): string {
    const { site, roleArn } = this.#options
    const partition = roleArn.split(':')[1] || 'aws'
    return sessionPolicy({ partition, bucket: site.bucket, prefix, operation })
  }
}
