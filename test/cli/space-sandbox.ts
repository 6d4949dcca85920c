import path from 'node:path'
import { connect } from '../../src/database/connect.ts'
import { Users } from '../../src/identity/users.ts'
import type { Space } from '../../src/remotestorage/space.ts'
import { Spaces } from '../../src/remotestorage/spaces.ts'
import { makeSandbox, type Outcome, type Sandbox } from './run-cli.ts'

/** A sandbox with the users bob and eve, and bob's storage. */
export interface SpaceSandbox {
  sandbox: Sandbox
  space: Space
  /** Bob's number. */
  bob: number
  timone: (...args: string[]) => Promise<Outcome>
  remove: () => Promise<void>
}

/** @param now the time of what is written, milliseconds since the epoch */
export async function makeSpaceSandbox(now?: () => number): Promise<SpaceSandbox> {
  const sandbox = await makeSandbox()
  const timone = (...args: string[]) => sandbox.timone([...args, '--data', 'data'])
  const root = path.join(sandbox.cwd, 'spaces')
  sandbox.env.TIMONE_REMOTESTORAGE_ROOT = root
  await timone('user', 'add', 'bob')
  await timone('user', 'add', 'eve')
  const database = await connect(`sqlite:${path.join(sandbox.cwd, 'data', 'timone.db')}`)
  const bob = (await new Users(database.db).byLogin('bob'))?.id ?? 0
  await database.close()
  const spaces = new Spaces({ root, ...(now === undefined ? {} : { now }) })
  const remove = async (): Promise<void> => {
    spaces.close()
    await sandbox.remove()
  }
  return { sandbox, space: spaces.of(bob), bob, timone, remove }
}
