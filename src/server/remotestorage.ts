import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { Hono } from 'hono'
import type { Database } from '../database/connect.ts'
import { FailureLimit } from '../failure-limit.ts'
import { recordEvent } from '../identity/events.ts'
import type { Identity } from '../identity/identity.ts'
import type { IdentityEnv } from '../identity/identity-env.ts'
import { OpaqueTokens } from '../identity/opaque-tokens.ts'
import { Users } from '../identity/users.ts'
import { Doorkeeper } from '../remotestorage/admission.ts'
import { codeGrant, consentRoutes } from '../remotestorage/consent-routes.ts'
import { Reception } from '../remotestorage/incoming.ts'
import { LargeDocuments } from '../remotestorage/large-documents.ts'
import { Packing } from '../remotestorage/packing.ts'
import type { Space } from '../remotestorage/space.ts'
import { Spaces } from '../remotestorage/spaces.ts'
import { Storage } from '../remotestorage/storage.ts'
import { webFingerRoutes } from '../remotestorage/web-finger.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { createCloneRoute, parseCloneTarget } from './clone-route.ts'
import { createStorageRoute, type StorageTarget } from './storage-route.ts'

/** What the operator says of users' storage. */
export interface RemoteStorageOptions {
  /** Absolute path of the folder with the users' repositories. */
  root: string
  /** Documents of this many bytes and more are objects of Git LFS. */
  large: number
  /** Bytes that each user may have whose own quota says nothing. */
  quota: number
  /** Public origin that serves the storage, and nothing else; undefined: that of the server does. */
  origin?: string | undefined
}

/** Puts the rooms of users' storage together, and gives what answers their requests. */
export function createRemoteStorage(
  options: RemoteStorageOptions,
  server: {
    database: Database
    store: ObjectStore
    prefix: string
    /** Public URL. */
    url: string
    idleTimeout: number
    now: () => number
    /** Told when housekeeping failed. */
    warn: (error: unknown) => void
  },
) {
  const { root, quota } = options
  const { database, store, prefix, url, idleTimeout, now, warn } = server
  const users = new Users(database.db, now)
  const packing = new Packing(warn)
  const onIdle = (space: Space): void => {
    if (space.changes > 0) packing.add(space.gitDir)
  }
  const spaces = new Spaces({ root, now, onIdle })
  const reception = new Reception(join(root, '.incoming'), options.large)
  reception.sweep().catch(warn)
  const large = new LargeDocuments(store, prefix)
  const storage = new Storage({
    spaces,
    reception,
    large,
    quota,
    now,
  })
  const tokens = new OpaqueTokens(database.db, now)
  const doorkeeper = new Doorkeeper(tokens, users, guessLimits(now))
  const answerStorage = createStorageRoute({ storage, doorkeeper, idleTimeout })
  const answerClone = createCloneRoute({
    ...{ spaces, large, doorkeeper, idleTimeout },
    url: options.origin ?? url,
  })
  return async (request: IncomingMessage, response: ServerResponse, target: StorageTarget): Promise<void> => {
    const ask = parseCloneTarget(request.method, request.url ?? '')
    await (ask === undefined
      ? answerStorage(request, response, target)
      : answerClone(request, response, ask, target.source))
  }
}

/**
 * Wrong tokens are counted after the look-up: whoever has a good one is not shut out by somebody else's tries. So are
 * public documents that are not there.
 */
function guessLimits(now: () => number): { tokens: FailureLimit; documents: FailureLimit } {
  const minute = { window: 60_000, now }
  return {
    tokens: new FailureLimit({
      ...minute,
      most: 100,
      message: 'too many wrong access tokens: wait a minute',
    }),
    documents: new FailureLimit({
      ...minute,
      most: 1000,
      message: 'too many documents that are not there: wait a minute',
    }),
  }
}

/** WebFinger, and the page where people let apps in; adds the grant of its codes to the token endpoint. */
export function createAppRoutes(
  identity: Identity,
  options: { url: string; storageUrl: string; signIn: boolean; db: Database['db']; now: () => number },
): Hono<IdentityEnv> {
  const { users, sessions, opaque: tokens, tokenGrants } = identity
  const { db, now } = options
  tokenGrants.set('authorization_code', codeGrant(tokens))
  return new Hono<IdentityEnv>()
    .route('/', webFingerRoutes({ users, ...options }))
    .route('/', consentRoutes({ sessions, tokens, record: (event) => recordEvent(db, event, now()) }))
}
