import { lfsUrl } from '../access/broker.ts'
import {
  keyOf,
  type ObjectName,
  type ObjectSigner,
  type PrepareSigner,
  signEach,
} from '../access/object-location.ts'
import { hrefWithPlan, type PlannedObject } from '../access/plan.ts'
import { TOTAL_LIFETIME } from '../access/role-sessions.ts'
import { mayWrite, type Principal } from '../auth/principal.ts'
import type { Tokens } from '../auth/tokens.ts'
import { isOid } from '../oid.ts'
import type { Repository } from '../repository.ts'
import { repositoryPrefix } from '../storage/object-key.ts'
import { admitUploads } from './batch-quota.ts'
import type { Presence } from './presence.ts'
import type { Usage } from './usage.ts'
import type { Action, AskedObject, BatchAnswer, BatchObject, BatchRequest, ObjectError } from './wire.ts'

export interface BatchOptions {
  presence: Presence
  /** The deployment's key prefix. */
  prefix: string
  prepareSigner: PrepareSigner
  usage: Usage
  tokens: Tokens
  /** Public URL of the server, without a slash at its end. */
  url: string
  /** Seconds that a token in an action lasts, `TIMONE_OBJECT_EXPIRESIN`. */
  expiresIn: number
  /** Milliseconds since the epoch. */
  now?: () => number
}

type BatchHandler = (
  principal: Principal,
  repository: Repository,
  request: BatchRequest,
  signal?: AbortSignal,
) => Promise<BatchAnswer>

/** What is to happen to one object, decided before anything is signed. */
type Decision =
  | { asked: AskedObject; error: ObjectError }
  | { asked: AskedObject; name: ObjectName; move: 'download' | 'upload' | 'replace' | 'nothing' }

/**
 * Answers Batch requests of principals that were admitted: every object that was asked for, once, spelled and ordered
 * as asked. git-lfs waits for ever for one that is left out.
 */
export function createBatch(options: BatchOptions): BatchHandler {
  const now = options.now ?? Date.now
  return async (principal, repository, request, signal) => {
    const decided = await decide(options, repository, request, signal)
    const decisions = request.operation === 'upload' ? await admit(options.usage, decided) : decided
    if (request.operation === 'download' && mayWrite(principal, repository))
      await countConfirmed(options.usage, decided)
    const moves = decisions.filter((one) => 'move' in one && one.move !== 'nothing')
    // git-lfs starts its agents even for an empty list: name ours only when there is work for it.
    const transfer = moves.length > 0 && request.transfers.includes('timone') ? 'timone' : 'basic'
    const issue = (use: 'transfer' | 'verify', expiresIn: number): Promise<string> =>
      options.tokens.issueUse({
        use,
        subject: principal.subject,
        repository,
        operation: request.operation,
        expiresIn,
        authTime: Math.floor(now() / 1000),
      })
    const base = lfsUrl(options.url, repository)
    const verify: Action | undefined =
      request.operation === 'upload' && moves.length > 0
        ? {
            href: `${base}/objects/verify`,
            header: { Authorization: `Bearer ${await issue('verify', TOTAL_LIFETIME)}` },
            // The last thing of an upload, however long that takes.
            expires_in: TOTAL_LIFETIME,
          }
        : undefined
    const act = async (): Promise<Act> => {
      if (transfer === 'basic') return basicAction(await options.prepareSigner())
      const token = await issue('transfer', options.expiresIn)
      return agentAction(`${base}/credentials`, token, options.expiresIn, planOf(decisions))
    }
    const prepared = moves.length > 0 ? await act() : undefined
    const objects = await signEach(decisions, (decision) => answerOne(decision, prepared, verify))
    return { transfer, objects, hash_algo: 'sha256' }
  }
}

type Act = (name: ObjectName, move: 'download' | 'upload' | 'replace') => Action | ObjectError

async function decide(
  options: BatchOptions,
  repository: Repository,
  request: BatchRequest,
  signal: AbortSignal | undefined,
): Promise<Decision[]> {
  const names = request.objects.map(({ oid, size }): ObjectName | ObjectError => {
    if (!isOid(oid))
      return { code: 422, message: 'an oid must be 64 lower-case hexadecimal digits (SHA-256)' }
    if (size === undefined)
      return { code: 422, message: 'a size must be a whole number of bytes, from 0 to 5 TiB' }
    return { repository, oid, size }
  })
  const valid = names.filter((name) => 'oid' in name)
  const found = await options.presence.sizes(
    valid.map((name) => keyOf(options.prefix, name)),
    // Whoever uploads relies on the answer: it is always the store's own. A download of what is gone fails by itself.
    {
      prefix: repositoryPrefix(options.prefix, repository),
      recent: request.operation === 'download' ? valid.map((name) => name.size) : undefined,
      signal,
    },
  )
  const sizes = new Map(valid.map((name, at) => [name.oid as string, found[at]]))
  return request.objects.map((asked, at) => {
    const name = names[at] as ObjectName | ObjectError
    if ('code' in name) return { asked, error: name }
    const stored = sizes.get(name.oid)
    if (request.operation === 'upload') {
      // A truncated object of an older tool: asking for it again heals it.
      const move = stored === undefined ? 'upload' : stored === name.size ? 'nothing' : 'replace'
      return { asked, name, move }
    }
    if (stored === undefined)
      return { asked, error: { code: 404, message: 'this object is not on the server' } }
    if (stored !== name.size) {
      const message = `the store has ${stored} bytes of this object, its pointer says ${name.size}: push it again to heal it`
      return { asked, error: { code: 422, message } }
    }
    return { asked, name, move: 'download' }
  })
}

/** Refuses the objects that the repository has no room for. */
async function admit(usage: Usage, decisions: readonly Decision[]): Promise<Decision[]> {
  const moves = decisions.filter((one) => 'move' in one)
  const asked = moves.map(({ name, move }) => ({ name, present: move === 'nothing' }))
  const refused = await admitUploads(usage, asked)
  const errors = new Map(moves.map((one, at) => [one, refused[at]]))
  return decisions.map((one) => {
    const error = 'move' in one ? errors.get(one) : undefined
    return error === undefined ? one : { asked: one.asked, error }
  })
}

/** Who has uploaded many small objects asks for them in this way to confirm them: then they are counted as well. */
async function countConfirmed(usage: Usage, decisions: readonly Decision[]): Promise<void> {
  await admitUploads(
    usage,
    decisions.filter((one) => 'move' in one).map(({ name }) => ({ name, present: true })),
  )
}

function answerOne(decision: Decision, act: Act | undefined, verify: Action | undefined): BatchObject {
  const { oid, size = 0 } = decision.asked
  const answer = { oid, size, authenticated: true } as const
  if ('error' in decision) return { ...answer, error: decision.error }
  if (decision.move === 'nothing' || act === undefined) return answer
  const action = act(decision.name, decision.move)
  if ('code' in action) return { ...answer, error: action }
  if (decision.move === 'download') return { ...answer, actions: { download: action } }
  return { ...answer, actions: { upload: action, ...(verify === undefined ? {} : { verify }) } }
}

function planOf(decisions: readonly Decision[]): PlannedObject[] {
  return decisions.flatMap((one) =>
    'move' in one && one.move !== 'nothing'
      ? [{ oid: one.name.oid, size: one.name.size, replace: one.move === 'replace' }]
      : [],
  )
}

/** How many actions of a batch carry its plan: git-lfs may never hand over the first object, if its file is damaged. */
const PLAN_COPIES = 2

/** For `timone agent`: a short-lived token for the credentials route, never a storage key. */
function agentAction(href: string, token: string, expiresIn: number, plan: readonly PlannedObject[]): Act {
  const planned = plan.length > 1 ? hrefWithPlan(href, plan) : href
  let copies = 0
  return (_name, move) => ({
    href: copies++ < PLAN_COPIES ? planned : href,
    header: { Authorization: `Bearer ${token}`, ...(move === 'replace' ? { 'Timone-Replace': '1' } : {}) },
    expires_in: expiresIn,
  })
}

/** For git-lfs itself: one signed request for the whole object. */
function basicAction(signer: ObjectSigner): Act {
  return (name, move) => {
    if (move !== 'download' && name.size > signer.maxPutSize) {
      const message = `${name.size} bytes are more than the store takes in one request (5 GiB): install timone (timone install)`
      return { code: 422, message }
    }
    const { href, header } = move === 'download' ? signer.get(name) : signer.put(name, move === 'replace')
    return { href, ...(Object.keys(header).length > 0 ? { header } : {}), expires_in: signer.expiresIn }
  }
}
