/** What names a credential that somebody else issued: one row of the table `leases`. */
export interface LeaseKey {
  /** `user:ID`; `subject:NAME` for storage sessions, whose holders need not be users; empty for what belongs to the server. */
  readonly owner: string
  /** Name of a {@link LeaseSource}. */
  readonly source: string
  /** What it opens, in the source's words; normalised, so that one thing has one row. */
  readonly resource: string
}

/** A credential that is good right now. */
export interface Lease {
  readonly accessToken: string
  readonly tokenType: string | null
  readonly scope: string | null
  /** Milliseconds since the epoch; null: it has no end that we know of. */
  readonly expiresAt: number | null
}

/** What a source issued. */
export interface Minted {
  readonly accessToken: string
  /** Replaces the one that it was minted with; undefined: that one stays. */
  readonly refreshToken?: string | undefined
  readonly tokenType?: string | undefined
  readonly scope?: string | undefined
  /** Milliseconds since the epoch; undefined: no end that we know of. */
  readonly expiresAt?: number | undefined
  readonly refreshExpiresAt?: number | undefined
}

/** What a source mints from. */
export interface MintRequest {
  readonly owner: string
  readonly resource: string
  readonly refreshToken: string | undefined
  /** Fires when the call must end. */
  readonly signal: AbortSignal
}

/** Somebody who issues credentials. */
export interface LeaseSource {
  /** Seconds before its end from which a credential is renewed. */
  readonly renewBefore: number
  /** True: needs what its owner once consented to; false: minted from what the server has. */
  readonly needsConsent: boolean
  /** For people: how a broken one is put right, as `connect again at https://…`. */
  readonly remedy: string
  /**
   * Asks for a new credential.
   * @throws {TimoneError} `lease_broken`: it will not be renewed, ever, without its owner; `upstream` or `throttled`,
   * perhaps with `retryAfter`: later; any other: the request itself is wrong. None of them holds a secret.
   */
  mint(request: MintRequest): Promise<Minted>
}

/** A row for people, without what is secret. */
export interface LeaseState extends LeaseKey {
  readonly state: 'active' | 'broken'
  readonly error: string | null
  readonly scope: string | null
  readonly expiresAt: number | null
  readonly updatedAt: number
}
