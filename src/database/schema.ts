/** Every table, as kysely sees it. Times are ISO 8601 in UTC with milliseconds, which sort as text. */
export interface Schema {
  lfs_locks: LfsLocksTable
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
