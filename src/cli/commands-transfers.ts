import { type Command, Option } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone push`, `pull` and `fetch`. */
export function addTransfers(root: Command, io: Io, done: Done): void {
  const shared = (command: Command): Command =>
    command
      .option('--remote <name>', 'the remote, where the first word is to be taken for a ref')
      .option('-q, --quiet', 'print failures only')
      .option('--json', 'print events as JSON, one a line')
      .addHelpText('after', EVENTS)
  const paths = (command: Command): Command =>
    command
      .option('-I, --include <paths>', 'only these paths, comma-separated (default: lfs.fetchinclude)')
      .option('-X, --exclude <paths>', 'not these paths, comma-separated (default: lfs.fetchexclude)')

  const push = shared(
    root
      .command('push')
      .summary('send objects to the server')
      .description(
        'Sends the LFS objects that refs need and the server lacks: all at once, without the one-at-a-time pipe of ' +
          'git-lfs. git push is still what moves the commits; it then finds the objects there. Without a ref: what is ' +
          "checked out. Locks of others stop it where lfs.locksverify says so. Where the server is not timone's, git lfs " +
          'push is run instead.',
      )
      .argument('[words...]', 'remote and refs: [remote] [ref...]')
      .option('-a, --all', 'everything that the refs, or all branches and tags, ever had')
      .option('-d, --dry-run', 'print what would be sent, asking nobody'),
  ).action(async (words: string[], options) => {
    const commands = await import('./push.ts')
    done(await commands.push(words, options, io))
  })
  examples(push, [
    ['timone push && git push', 'objects first, then the commits that need them'],
    ['timone push origin main', 'of one branch, to one remote'],
    ['timone push --all backup', 'the whole history, to another server'],
  ])

  const pull = shared(
    paths(
      root
        .command('pull')
        .summary('fetch what is checked out, and fill the files')
        .description(
          'Fetches the LFS objects that the checkout needs and makes files of the pointers in the work tree. Files that ' +
            'were changed are not touched. Does what git lfs pull does, and leaves the same behind.',
        )
        .argument('[remote]', 'where to fetch from (default: as git lfs)'),
    ),
  ).action(async (remote: string | undefined, options) => {
    const commands = await import('./pull.ts')
    done(await commands.pull(remote === undefined ? [] : [remote], options, io))
  })
  examples(pull, [
    ['GIT_LFS_SKIP_SMUDGE=1 git clone URL && cd repo && timone pull', 'the fastest clone'],
    ['timone pull --include "textures,*.psd" --exclude old', 'a part of it'],
    ['timone pull --json | jq -c \'select(.event == "summary")\'', 'for a runner'],
  ])

  const fetch = shared(
    paths(
      root
        .command('fetch')
        .summary('fetch objects, without touching files')
        .description(
          'Fetches the LFS objects that refs need into the clone. Without a ref: what is checked out. Also in bare ' +
            'repositories. Takes the arguments of git lfs fetch.',
        )
        .argument('[words...]', 'remote and refs: [remote] [ref...]')
        .addOption(
          new Option('-a, --all', 'everything that the refs, or all refs, ever had').conflicts([
            'recent',
            'include',
            'exclude',
          ]),
        )
        .option('-r, --recent', 'also recent branches and commits (lfs.fetchrecent*)'),
    ),
  ).action(async (words: string[], options) => {
    const commands = await import('./fetch.ts')
    done(await commands.fetch(words, options, io))
  })
  examples(fetch, [
    ['timone fetch', 'what the current branch needs'],
    ['timone fetch origin main feature', 'two branches'],
    ['timone fetch --all', 'the whole history, as for a mirror'],
  ])
}

/** What `--json` prints, for the help of the commands that move objects. */
const EVENTS = `
Events of --json, one object a line, told apart by "event":
  start     command, endpoint (null: nobody is asked)
  progress  objects {done,total}, bytes {done,total}, complete (the totals are final), rate (bytes/s),
            seconds_left, retries; once a second
  object    oid, size, path, result: moved, cached or would-move
  note      message
  error     oid and path (null: it concerns all), code, message
  summary   command, exit_code, moved, cached, skipped, failed, bytes, files, seconds, rate, retries
Exit code: 0 done, 1 something failed, 2 usage or configuration, 130 interrupted (the same command then goes on).`

/** `timone uploads …`: what pushes left behind. */
export function addUploads(root: Command, io: Io, done: Done): void {
  const uploads = root
    .command('uploads')
    .summary('list and abort unfinished uploads')
    .description(
      'Large objects go up in parts. An upload that was interrupted keeps its parts in the store, so that the next push ' +
        'can go on; when none comes, they only cost money. In a clone these commands show what its own pushes left; with ' +
        "--config or --data they show all of a server's store, for its operator.",
    )
  const shared = (command: Command): Command =>
    command
      .option('--older-than <time>', 'only uploads begun so long ago: 90m, 12h, 7d')
      .option('--remote <name>', 'the remote whose server is asked (default: as a push)')
      .option('--config <file>', "the server's TOML file")
      .option('--data <dir>', "the server's data folder")
      .option('--json', 'print as JSON')

  const list = shared(
    uploads
      .command('list')
      .summary('print unfinished uploads')
      .description(
        'Prints each unfinished upload: oid, size, when it was begun, repository. From a store it also says how much of ' +
          'it is there.',
      )
      .option('--check', 'in a clone: ask the server how much of each is stored'),
  ).action(async (options) => {
    const commands = await import('./uploads.ts')
    done(await commands.listUploads(options, io))
  })
  examples(list, [
    ['timone uploads list', 'what pushes from this clone left behind'],
    ['timone uploads list --config /etc/timone.toml --older-than 7d', 'in the whole store, on the server'],
  ])

  const abort = shared(
    uploads
      .command('abort')
      .summary('drop unfinished uploads')
      .description(
        'Drops unfinished uploads in the store and forgets them. What a process is sending at this moment from this ' +
          "clone is left alone; in a server's store that cannot be told, so give --older-than there.",
      )
      .argument('[oids...]', 'which')
      .option('--all', 'every one that is not being sent'),
  ).action(async (words: string[], options) => {
    const commands = await import('./uploads.ts')
    done(await commands.abortUploads(words, options, io))
  })
  examples(abort, [
    ['timone uploads abort --all', 'start anew from this clone'],
    ['timone uploads abort --all --older-than 7d --config /etc/timone.toml', 'nightly, on the server'],
  ])
  examples(uploads, [
    ['timone uploads list', ''],
    ['timone uploads abort --all --older-than 7d --data /var/lib/timone', ''],
  ])
}

/** `timone cache …`: for who looks after runners. */
export function addCache(root: Command, io: Io, done: Done): void {
  const cache = root
    .command('cache')
    .summary('look after the shared cache of objects')
    .description(
      'Looks after the cache of objects that git config timone.cacheDir names, which repositories, processes and machines ' +
        'share. It fills itself and keeps to timone.cacheSize by itself.',
    )
  const common = (command: Command): Command =>
    command
      .option('--dir <folder>', 'the cache in this folder (default: what git config timone.cacheDir names)')
      .option('--json', 'print as JSON')

  const stat = common(
    cache
      .command('stat')
      .summary('print how much lies in it')
      .description('Prints the number of objects, their bytes, the bound, and when they were used last.'),
  ).action(async (options) => {
    const { cacheStat } = await import('./cache.ts')
    done(await cacheStat(options, io))
  })
  examples(stat, [
    ['timone cache stat', ''],
    ['timone cache stat --dir /mnt/nfs/timone --json', 'of another cache, for scripts'],
  ])

  const prune = common(
    cache
      .command('prune')
      .summary('remove what was used least recently')
      .description(
        'Removes the objects that were used least recently until the cache keeps to timone.cacheSize, or to what is said ' +
          'here. Whoever is using one meanwhile keeps it.',
      ),
  )
    .option('--size <bytes>', 'leave no more than this: 500m, 10g, 2t')
    .option('--older-than <time>', 'remove what was not used for so long: 90m, 12h, 7d')
    .option('--all', 'remove everything')
    .action(async (options) => {
      const { cachePrune } = await import('./cache.ts')
      done(await cachePrune(options, io))
    })
  examples(prune, [
    ['timone cache prune --older-than 7d', 'what nobody has used for a week'],
    ['timone cache prune --size 2g', 'down to 2 GiB'],
  ])

  const verify = common(
    cache
      .command('verify')
      .summary('check every object, remove what is damaged')
      .description(
        'Reads every object, compares its SHA-256 with its name, and removes what is damaged. Exit code 1 when something ' +
          'was. Objects are checked whenever they are used, so nothing depends on this; it frees room and tells of bad disks.',
      ),
  ).action(async (options) => {
    const { cacheVerify } = await import('./cache.ts')
    done(await cacheVerify(options, io))
  })
  examples(verify, [['timone cache verify', 'once in a while, as a cron job']])
  examples(cache, [
    ['git config --global timone.cacheDir ~/.cache/timone', 'from now on there is one'],
    ['timone cache stat', 'how much is in it?'],
  ])
}
