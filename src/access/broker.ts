import type { Principal } from '../auth/principal.ts'
import type { Tokens } from '../auth/tokens.ts'
import { TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import { type Repository, repositoryName } from '../repository.ts'
import { repositoryPrefix } from '../storage/object-key.ts'
import type { CredentialsAnswer, Operation, Renewal } from './credentials.ts'
import type { S3Site } from './object-location.ts'
import { type RoleSessions, type SessionGrant, TOTAL_LIFETIME } from './role-sessions.ts'
import type { RoleSession } from './sts.ts'

/** Gives what a source of credentials minted, kept for all who want the same. */
export type LeaseOf = (key: {
  owner: string
  resource: string
}) => Promise<{ accessToken: string; expiresAt: number | null }>

export interface BrokerOptions {
  tokens: Tokens
  /** Public URL of the server, without a slash at its end. */
  url: string
  /** Seconds that credentials and tokens last, `TIMONE_OBJECT_EXPIRESIN`. */
  expiresIn: number
  /** Where S3 credentials lead, and who gives them. Absent: every answer is of driver `url`. */
  sts?: { site: S3Site; sessions: RoleSessions; lease: LeaseOf }
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Seconds that `principal` may still renew for. @throws {TimoneError} `unauthorized` when none are left. */
export function lifetimeLeft(principal: Principal, now: number): number {
  const left = principal.authTime + TOTAL_LIFETIME - Math.floor(now / 1000)
  if (left <= 0)
    throw new TimoneError('unauthorized', 'this transfer has gone on for 12 hours: sign in again')
  return Math.min(left, TOTAL_LIFETIME)
}

/** Base URL of a repository's LFS API. `url` is the public URL of the server. */
export function lfsUrl(url: string, repository: Repository): string {
  return `${url}/${repositoryName(repository)}/info/lfs`
}

/**
 * Turns a principal's right to one repository and one direction into storage credentials that open no more than that.
 * Sessions are shared by all requests of the same subject, on every server, except those whose total life ends before
 * the session's.
 */
export class Broker {
  readonly #options: BrokerOptions
  readonly #now: () => number
  /** Sessions that end with the total life of a sign-in. */
  readonly #last: ExpiringCache<RoleSession>

  constructor(options: BrokerOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#last = new ExpiringCache({ now: this.#now })
  }

  /**
   * Credentials for a principal that was admitted to `operation` on `repository`.
   * @throws {TimoneError} `unauthorized` when the total life is over, or what STS threw; `unavailable` without the database.
   */
  async credentials(
    principal: Principal,
    repository: Repository,
    operation: Operation,
  ): Promise<CredentialsAnswer> {
    const { sts, url, tokens, expiresIn } = this.#options
    const now = this.#now()
    const left = lifetimeLeft(principal, now)
    const { subject, authTime } = principal
    const granted = { subject, repository, operation, authTime }
    const renew: Renewal = {
      href: `${lfsUrl(url, repository)}/credentials`,
      token: await tokens.issueUse({ use: 'renew', ...granted, expiresIn: left }),
      expires_at: new Date(now + left * 1000).toISOString(),
    }
    if (sts === undefined) {
      const lasts = Math.min(expiresIn, left)
      return {
        driver: 'url',
        transfers: `${lfsUrl(url, repository)}/transfers`,
        token: await tokens.issueUse({ use: 'transfer', ...granted, expiresIn: lasts }),
        expires_at: new Date(now + lasts * 1000).toISOString(),
        renew,
      }
    }
    const { site } = sts
    const prefix = repositoryPrefix(site.prefix, repository)
    const session = await this.#session(sts, { subject, prefix, operation }, { authTime, left })
    return {
      driver: 's3',
      endpoint: site.endpoint,
      region: site.region,
      bucket: site.bucket,
      prefix,
      force_path_style: site.forcePathStyle,
      access_key_id: session.accessKeyId,
      secret_access_key: session.secretAccessKey,
      session_token: session.sessionToken,
      expires_at: new Date(session.expiresAt).toISOString(),
      renew,
    }
  }

  async #session(
    { sessions, lease }: NonNullable<BrokerOptions['sts']>,
    grant: SessionGrant,
    { authTime, left }: { authTime: number; left: number },
  ): Promise<RoleSession> {
    // Those of the lease were asked for until now, and so end before this sign-in does.
    if (left >= sessions.duration) return sessions.read(await lease(sessions.keyOf(grant)))
    const { subject, prefix, operation } = grant
    return this.#last.get(JSON.stringify([subject, prefix, operation, authTime]), async () => {
      const value = await sessions.assume(grant, left)
      const life = value.expiresAt - this.#now()
      return { value, until: value.expiresAt - Math.max(300_000, life / 3) }
    })
  }
}
