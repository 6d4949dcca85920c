import type { Principal } from '../auth/principal.ts'
import type { Tokens } from '../auth/tokens.ts'
import { TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import { type Repository, repositoryName } from '../repository.ts'
import { repositoryPrefix } from '../storage/object-key.ts'
import type { CredentialsAnswer, Operation, Renewal } from './credentials.ts'
import type { S3Site } from './object-location.ts'
import { sessionPolicy } from './policy.ts'
import { type AssumeRole, type RoleSession, sessionNameFor } from './sts.ts'

/** Seconds from the first sign-in during which credentials are renewed: 12 hours, also AWS's longest session. */
export const TOTAL_LIFETIME: number = 12 * 3600

/** AWS STS: no session is shorter. Seconds. */
const MIN_SESSION = 900

export interface BrokerOptions {
  tokens: Tokens
  /** Public URL of the server, without a slash at its end. */
  url: string
  /** Seconds that credentials and tokens last, `TIMONE_OBJECT_EXPIRESIN`. */
  expiresIn: number
  /** Where S3 credentials lead, and who gives them. Absent: every answer is of driver `url`. */
  sts?: { site: S3Site; assumeRole: AssumeRole; partition: string }
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
 * Sessions are shared by all requests of the same subject, and asked for once however many wait, except by a request
 * whose total life ends before the session's.
 */
export class Broker {
  readonly #options: BrokerOptions
  readonly #now: () => number
  readonly #sessions: ExpiringCache<RoleSession>

  constructor(options: BrokerOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#sessions = new ExpiringCache({ now: this.#now })
  }

  /**
   * Credentials for a principal that was admitted to `operation` on `repository`.
   * @throws {TimoneError} `unauthorized` when the total life is over, or what STS threw.
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
    const session = await this.#session(sts, subject, prefix, operation, left)
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
    sts: NonNullable<BrokerOptions['sts']>,
    subject: string,
    prefix: string,
    operation: Operation,
    left: number,
  ): Promise<RoleSession> {
    const assume = (): Promise<RoleSession> => {
      const policy = sessionPolicy({
        partition: sts.partition,
        bucket: sts.site.bucket,
        prefix,
        operation,
      })
      const duration = Math.max(MIN_SESSION, Math.min(this.#options.expiresIn, TOTAL_LIFETIME, left))
      return sts.assumeRole({ policy, duration, sessionName: sessionNameFor(subject) })
    }
    let own = false
    const shared = await this.#sessions.get(JSON.stringify([subject, prefix, operation]), async () => {
      own = true
      const value = await assume()
      // Handed out only while a third of its life, and five minutes, are left: enough for the transfer that asks.
      const life = value.expiresAt - this.#now()
      return { value, until: value.expiresAt - Math.max(300_000, life / 3) }
    })
    // One that was made for a later sign-in would go on after this one's total life.
    const end = this.#now() + Math.max(MIN_SESSION, left) * 1000
    return own || shared.expiresAt <= end ? shared : assume()
  }
}
