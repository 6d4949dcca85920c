import fs from 'node:fs'
import { dirname } from 'node:path'
import git, { type TreeEntry } from 'isomorphic-git'
import { documentEntry } from '../../src/remotestorage/folder.ts'
import { syncFolder } from '../../src/sync-folder.ts'

const ATTRIBUTES = '.gitattributes'
const MAIN = 'refs/heads/main'

/** isomorphic-git's own way to write, and one that flushes each file and its folder as we do. */
export const PLAIN: object = fs
export const FLUSHING: object = {
  promises: {
    ...fs.promises,
    writeFile: async (path: string, data: Buffer) => {
      const file = await fs.promises.open(path, 'w')
      try {
        await file.writeFile(data)
        await file.sync()
      } finally {
        await file.close()
      }
      await syncFolder(dirname(path))
    },
  },
}

/** Makes the commits that timone makes of PUTs, in a copy of the same repository, by isomorphic-git's plumbing. */
export class IsomorphicStorage {
  readonly #common: { fs: typeof fs; gitdir: string; cache: object }

  constructor(gitdir: string, system: object) {
    this.#common = { fs: system as typeof fs, gitdir, cache: {} }
  }

  async put(path: string, content: Buffer, type: string): Promise<void> {
    const common = this.#common
    const names = path.slice(1).split('/')
    const name = names.pop() as string
    const parent = await git.resolveRef({ ...common, ref: MAIN })
    const { commit } = await git.readCommit({ ...common, oid: parent })
    const chain: TreeEntry[][] = [(await git.readTree({ ...common, oid: commit.tree })).tree]
    for (const folder of names) {
      const below = chain.at(-1)?.find((entry) => entry.path === folder && entry.type === 'tree')
      if (below === undefined) throw new Error(`no folder ${folder}`)
      chain.push((await git.readTree({ ...common, oid: below.oid })).tree)
    }
    const blob = await git.writeBlob({ ...common, blob: content })
    let tree = replace(chain.pop() as TreeEntry[], name, 'blob', blob)
    const facts = { type, length: content.length, modified: Date.now(), large: false }
    tree = await this.#describe(tree, documentEntry(name, blob, facts).line as string)
    for (const folder of names.toReversed()) {
      const oid = await git.writeTree({ ...common, tree })
      tree = replace(chain.pop() as TreeEntry[], folder, 'tree', oid)
    }
    const who = {
      name: 'bob',
      email: 'bob',
      timestamp: Math.floor(Date.now() / 1000),
      timezoneOffset: 0,
    }
    const message = `PUT ${path}\n\nClient: https://app.example\nBytes: 0\n`
    const value = await git.writeCommit({
      ...common,
      commit: {
        tree: await git.writeTree({ ...common, tree }),
        parent: [parent],
        author: who,
        committer: who,
        message,
      },
    })
    await git.writeRef({ ...common, ref: MAIN, value, force: true })
  }

  /** The line of the document in the folder's `.gitattributes`, replaced or added. */
  async #describe(tree: TreeEntry[], line: string): Promise<TreeEntry[]> {
    const common = this.#common
    const old = tree.find((entry) => entry.path === ATTRIBUTES)
    const text =
      old === undefined ? '' : Buffer.from((await git.readBlob({ ...common, oid: old.oid })).blob).toString()
    const lines = text.split('\n').slice(0, -1)
    const own = line.slice(0, line.indexOf('" '))
    const at = lines.findIndex((one) => one.startsWith(own))
    lines[at < 0 ? lines.length : at] = line
    const blob = Buffer.from(`${lines.join('\n')}\n`)
    return replace(tree, ATTRIBUTES, 'blob', await git.writeBlob({ ...common, blob }))
  }
}

function replace(tree: TreeEntry[], path: string, type: 'blob' | 'tree', oid: string): TreeEntry[] {
  const mode = type === 'blob' ? '100644' : '040000'
  return [...tree.filter((entry) => entry.path !== path), { mode, path, oid, type }]
}
