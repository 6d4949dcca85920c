import { type ExecFileSyncOptions, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { type LocalRepository, openRepository } from '../../src/git/repository.ts'
import type { Oid } from '../../src/oid.ts'
import type { GitLfs } from './git-lfs.ts'

/** Repositories of their own, with nobody's configuration but theirs. */
export class GitSandbox {
  readonly folder: string
  readonly env: Record<string, string>

  constructor(gitLfs?: GitLfs) {
    this.folder = realpathSync(mkdtempSync(join(tmpdir(), 'timone-git-')))
    mkdirSync(join(this.folder, 'home'))
    const path = process.env.PATH ?? ''
    this.env = {
      PATH: gitLfs?.folder === undefined ? path : `${gitLfs.folder}${delimiter}${path}`,
      HOME: join(this.folder, 'home'),
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_AUTHOR_NAME: 'Ann',
      GIT_AUTHOR_EMAIL: 'ann@example.org',
      GIT_COMMITTER_NAME: 'Ann',
      GIT_COMMITTER_EMAIL: 'ann@example.org',
      GIT_ADVICE: '0',
    }
    this.git(this.folder, 'config', '--global', 'init.defaultBranch', 'main')
    this.git(this.folder, 'config', '--global', 'protocol.file.allow', 'always')
    this.git(this.folder, 'lfs', 'install', '--skip-repo')
  }

  path(...names: string[]): string {
    return join(this.folder, ...names)
  }

  /** What git says on stdout; a failure throws, with what it said on stderr. */
  git(cwd: string, ...args: string[]): string {
    return this.run('git', args, { cwd })
  }

  run(
    command: string,
    args: readonly string[],
    options: ExecFileSyncOptions & { env?: Record<string, string> },
  ): string {
    return execFileSync(command, args, {
      maxBuffer: 2 ** 28,
      stdio: ['pipe', 'pipe', 'pipe'],
      ...options,
      env: { ...this.env, ...options.env },
    }).toString()
  }

  /** Everything that git writes to its trace while it runs `args`. */
  trace(cwd: string, ...args: string[]): string {
    const log = join(this.folder, 'trace')
    rmSync(log, { force: true })
    this.run('git', args, { cwd, env: { GIT_TRACE: log } })
    return this.run('cat', [log], { cwd })
  }

  open(cwd: string, env: Record<string, string> = {}): Promise<LocalRepository> {
    return openRepository({ cwd, env: { ...this.env, ...env } })
  }

  /** A repository with `files` committed: those under filter=lfs as pointers, their objects in its local store. */
  repository(
    name: string,
    files: Record<string, string | Buffer>,
    options: { init?: string[]; attributes?: string } = {},
  ): string {
    const work = this.path(name)
    this.git(this.folder, 'init', '-q', ...(options.init ?? []), work)
    this.write(work, '.gitattributes', options.attributes ?? '*.bin filter=lfs diff=lfs merge=lfs -text\n')
    for (const [path, content] of Object.entries(files)) this.write(work, path, content)
    this.commit(work, 'first')
    return work
  }

  write(work: string, path: string, content: string | Buffer, mode?: number): void {
    mkdirSync(dirname(join(work, path)), { recursive: true })
    writeFileSync(join(work, path), content)
    if (mode !== undefined) chmodSync(join(work, path), mode)
  }

  /** Puts just these bytes into the index, past every filter. */
  stage(work: string, path: string, content: string | Buffer, mode = '100644'): void {
    const blob = this.run('git', ['hash-object', '-w', '--no-filters', '--stdin'], {
      cwd: work,
      input: content,
    }).trim()
    this.git(work, 'update-index', '--add', '--cacheinfo', `${mode},${blob},${path}`)
  }

  commit(work: string, message: string): void {
    this.git(work, 'add', '-A')
    this.git(work, 'commit', '-q', '--allow-empty', '-m', message)
  }

  /** A clone whose work tree has the pointers; it finds the objects of `from` in its own store. */
  clone(from: string, name: string, ...args: string[]): string {
    const work = this.path(name)
    this.run('git', ['clone', '-q', ...args, from, work], {
      cwd: this.folder,
      env: { GIT_LFS_SKIP_SMUDGE: '1' },
    })
    this.shareObjects(from.replace(/^file:\/\//, ''), work)
    return work
  }

  /** Lets `work` find the objects of `from`. */
  shareObjects(from: string, work: string): void {
    const [source, target] = [from, work].map((folder) => this.commonDir(folder)) as [string, string]
    mkdirSync(join(target, 'lfs'), { recursive: true })
    this.run('cp', ['-r', join(source, 'lfs', 'objects'), join(target, 'lfs')], { cwd: this.folder })
  }

  commonDir(work: string): string {
    return this.git(work, 'rev-parse', '--path-format=absolute', '--git-common-dir').trim()
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export const oidOf = (content: string | Buffer): Oid =>
  createHash('sha256').update(content).digest('hex') as Oid

/** Where the local store of `repository` keeps an object. */
export const objectPathIn =
  (repository: LocalRepository) =>
  (oid: Oid): string =>
    join(repository.commonDir, 'lfs', 'objects', oid.slice(0, 2), oid.slice(2, 4), oid)
