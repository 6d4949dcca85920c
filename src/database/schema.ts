import type { ColumnType, Generated } from 'kysely'

/** Every table, as kysely sees it. Times are ISO 8601 in UTC with milliseconds, which sort as text. */
export interface Schema {
  lfs_locks: LfsLocksTable
  lfs_objects: LfsObjectsTable
  lfs_usage: LfsUsageTable
  users: UsersTable
  identities: IdentitiesTable
  grants: GrantsTable
  user_groups: UserGroupsTable
  tokens: TokensTable
  device_codes: DeviceCodesTable
  signing_keys: SigningKeysTable
  leases: LeasesTable
  events: EventsTable
  sealing_keys: SealingKeysTable
}

/** One row for each lock; UNIQUE(repository, path_key) lets one of several creates at once win. */
export interface LfsLocksTable {
  /** 32 hex digits; those of later locks are greater. */
  id: string
  /** `org/repo`. */
  repository: string
  /** As the client spelled it. */
  path: string
  /** SHA-256 of the path as file systems compare it; hashed, for an index entry of Postgres holds 2704 bytes at most. */
  path_key: string
  /** Stable name of the user. */
  owner_subject: string
  /** For people. */
  owner_name: string
  locked_at: string
}

/** An object that is counted for a repository. PRIMARY KEY(repository, oid). */
export interface LfsObjectsTable {
  /** `org/repo`. */
  repository: string
  oid: string
  /** Bytes. A number from SQLite; Postgres gives text for its 64 bits. */
  size: ColumnType<number | string, number, number>
  counted_at: string
}

/** Sums over {@link LfsObjectsTable}, one row for each repository. */
export interface LfsUsageTable {
  repository: string
  bytes: ColumnType<number | string, number, number>
  objects: ColumnType<number | string, number, number>
}

/** One row for each person or machine that we know. */
export interface UsersTable {
  id: Generated<number>
  /** The user name of Basic authentication and the subject of tokens; kept in lower case. */
  login: string
  name: string
  /** As it was given. */
  email: string | null
  /** In lower case, so that one address is one user. */
  email_key: string | null
  picture_url: string | null
  /** Bytes of remoteStorage; null: the server's default. */
  quota: number | null
  disabled_at: string | null
  created_at: string
}

/** How somebody else's sign-in knows a user. UNIQUE(user_id, issuer): one of each issuer. */
export interface IdentitiesTable {
  /** Issuer URL of an OIDC provider, or the name of one without such a URL, as `github`. */
  issuer: string
  /** As the issuer spells it; text, for some issuers count beyond 32 bits. */
  subject: string
  user_id: number
  /** For people: the login or address at the issuer. */
  label: string | null
  created_at: string
}

/** What a user, or everyone of a group, may do. */
export interface GrantsTable {
  /** `user:LOGIN` or `group:NAME`. */
  principal: string
  /** One scope of `auth/scope.ts`. */
  scope: string
  created_at: string
}

/** Groups as the claim named them when the user signed in last. */
export interface UserGroupsTable {
  user_id: number
  name: string
}

/** What we issued and can take back: sign-ins, app and personal tokens, JWTs by their `jti`, codes. */
export interface TokensTable {
  /** The `jti` of a JWT, else a random name; never the token itself. */
  id: string
  user_id: number | null
  /** `session`, `jwt`, `personal`, `app`, `code`. */
  kind: string
  /** SHA-256 of an opaque token, hex; null for a JWT, which its signature proves. */
  hash: string | null
  /** Scopes separated by spaces. */
  scopes: string
  /** Origin of an app, or what asked for the token. */
  client: string
  /** JSON that belongs to the kind; never a secret. */
  data: string | null
  created_at: string
  expires_at: string | null
  last_used_at: string | null
  revoked_at: string | null
}

/** A sign-in that waits for its approval in a browser (RFC 8628). */
export interface DeviceCodesTable {
  /** SHA-256 of the device code, hex. */
  hash: string
  /** As it is typed in, without its hyphen. */
  user_code: string
  client: string
  scopes: string
  /** `pending`, `approved`, `denied` or `used`. */
  state: string
  user_id: number | null
  created_at: string
  expires_at: string
  /** Last time the device asked; it must not ask too often. */
  polled_at: string | null
}

/** Keys that sign tokens; the newest that is not retired signs, all that are not expired verify. */
export interface SigningKeysTable {
  kid: string
  /** `EdDSA` or `RS256`. */
  alg: string
  /** JWK, JSON. */
  public_key: string
  /** PKCS#8 PEM, encrypted. */
  private_key: string
  created_at: string
  /** From then on it signs nothing new. */
  retired_at: string | null
}

/** A credential that someone else issued, held and renewed here. PRIMARY KEY(owner, source, resource). */
export interface LeasesTable {
  /** `user:ID`; `subject:NAME` for storage sessions; empty for what belongs to the server. */
  owner: string
  /** `github`, a provider's name, `sts`. */
  source: string
  /** What it opens, in the source's words; normalised so that one thing has one row. */
  resource: string
  /** Encrypted. */
  access_token: string | null
  /** Encrypted. */
  refresh_token: string | null
  token_type: string | null
  scope: string | null
  expires_at: string | null
  refresh_expires_at: string | null
  /** `active` or `broken`. */
  state: string
  /** Why it is broken, for people; never a secret. */
  error: string | null
  updated_at: string
}

/** The audit trail, and the outbox of notifications. */
export interface EventsTable {
  /** Grows with time. A number from SQLite; Postgres gives text for its 64 bits. */
  id: ColumnType<number | string, never, never>
  at: string
  /** Login of who did it; empty: the server itself, or nobody known. */
  actor: string
  /** `user.create`, `token.revoke`, … */
  action: string
  /** What it was done to, as `user:17`. */
  subject: string
  /** Address that the request came from; empty: not from the network. */
  source: string
  /** JSON; never a secret. */
  data: string
  /** When its notification was handed to the message broker; null: not yet, or there is none to send. */
  published_at: string | null
}

/** Keys that secrets in the database were encrypted with, so that a start without one of them is refused. */
export interface SealingKeysTable {
  /** `SecretBox.keyId`; says nothing about the key. */
  id: string
  created_at: string
}
