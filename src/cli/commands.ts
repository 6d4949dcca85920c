import { Argument, Command, Option } from 'commander'
import { VERSION } from '../version.ts'
import { type Done, examples } from './command-help.ts'
import { addDoctor } from './commands-doctor.ts'
import { addAuditTrail, addImportIdent } from './commands-identity.ts'
import { addImportTokenstore, addSecrets } from './commands-leases.ts'
import { addPeople } from './commands-people.ts'
import { addSignIn } from './commands-sign-in.ts'
import { addSpace } from './commands-space.ts'
import { addGitLfsAuthenticate } from './commands-ssh.ts'
import { addUsage } from './commands-usage.ts'
import type { ConfigScope } from './install.ts'
import type { Io } from './io.ts'
import type { ServeOptions } from './serve.ts'

/**
 * The tree of commands with all they say in `--help`. What a command does is loaded when it runs, so that none waits
 * for the others' libraries.
 */
export function commandTree(io: Io, done: Done): Command {
  const root = new Command('timone')
    .description('Git LFS objects straight into your own bucket: a transfer agent, and the server behind it.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      // One line, under the name that all our messages have.
      outputError: (text, write) =>
        write(
          `${text
            .trim()
            .replace(/^error: /, 'timone: ')
            .replace(/\s*\n\s*/g, ' ')}\n`,
        ),
    })
    .exitOverride()
    .showHelpAfterError(false)
  examples(root, [
    ['timone install', 'once for each user: git-lfs transfers through timone from now on'],
    ['timone init https://lfs.example.com/foo/bar', 'once for each repository: where its objects live'],
    ['timone serve', 'a server with everything on its defaults, to try it out'],
  ])
  addServe(root, io, done)
  addAgent(root, io, done)
  addInstall(root, io, done)
  addInit(root, io, done)
  addTransfers(root, io, done)
  addSignIn(root, io, done)
  addDoctor(root, io, done)
  addToken(root, io, done)
  addPeople(root, io, done)
  addAuditTrail(root, io, done)
  addGitLfsAuthenticate(root, io, done)
  addUploads(root, io, done)
  addSpace(root, io, done)
  addUsage(root, io, done)
  addSecrets(root, io, done)
  addImportTokenstore(root, io, done)
  addImportIdent(root, io, done)
  addConfig(root, io, done)
  addCache(root, io, done)
  addCompletion(root, io, done)
  return root
}

function addServe(root: Command, io: Io, done: Done): void {
  const command = root
    .command('serve')
    .summary('run the server')
    .description(
      'Runs the server that git-lfs asks for objects. With no settings at all it listens on 127.0.0.1:8000, keeps ' +
        'objects and a generated secret under ./timone-data, and prints what to paste. Settings come from options, ' +
        'the environment (TIMONE_*) and a TOML file, in this order; see timone config. SIGTERM lets running requests end.',
    )
    .option('--listen <host:port>', 'address to listen on; port 0 takes a free one (default: 127.0.0.1:8000)')
    .option('--data <dir>', "folder for the server's own files (default: ./timone-data)")
    .option('--config <file>', 'TOML file with settings')
    .option('--insecure', 'allow plain http on a public address, where tokens can be read on the way')
    .action(async (options: ServeOptions) => {
      const { serve } = await import('./serve.ts')
      done(await serve(options, io))
    })
  examples(command, [
    ['timone serve', 'try it out on this machine'],
    ['timone serve --data /var/lib/timone --config /etc/timone.toml', 'for a team, behind an https proxy'],
    [
      'TIMONE_STORAGE=s3 TIMONE_STORAGE_S3_BUCKET=lfs TIMONE_STORAGE_S3_REGION=eu-west-1 timone serve',
      'objects in a bucket',
    ],
  ])
}

function addAgent(root: Command, io: Io, done: Done): void {
  const command = root
    .command('agent')
    .summary('transfer objects for git-lfs (git-lfs starts this itself)')
    .description(
      'The custom transfer agent of git-lfs: speaks its protocol on stdin and stdout until stdin ends. git-lfs starts ' +
        'it after timone install. TIMONE_LOG=FILE keeps a log; GIT_TRACE=1 shows one. The sizes of parts and their ' +
        'number at a time are set with git config timone.partSize and timone.parallelParts.',
    )
    .action(async () => {
      const { runAgent } = await import('./agent.ts')
      done(await runAgent(io.env))
    })
  examples(command, [
    ['TIMONE_LOG=/tmp/timone.log git push', 'see what the agent did'],
    ['git config --global timone.parallelParts 8', 'more parts of a large file at a time'],
  ])
}

function addInstall(root: Command, io: Io, done: Done): void {
  const add = (name: 'install' | 'uninstall', summary: string, description: string): Command =>
    root
      .command(name)
      .summary(summary)
      .description(description)
      .addOption(new Option('--global', 'for this user (default)').conflicts(['local', 'system']))
      .addOption(new Option('--local', 'for this repository only').conflicts(['global', 'system']))
      .addOption(new Option('--system', 'for every user of this machine').conflicts(['global', 'local']))
      .option('--json', 'print what changed as JSON')
      .action(
        async (options: { local?: boolean; system?: boolean; json?: boolean; standalone?: boolean }) => {
          const commands = await import('./install.ts')
          const scope: ConfigScope = options.local ? 'local' : options.system ? 'system' : 'global'
          const { json = false, standalone = false } = options
          done(await commands[name]({ scope, json, standalone }, io))
        },
      )
  examples(
    add(
      'install',
      'make git-lfs transfer through timone',
      'Writes lfs.customtransfer.timone.* into the git configuration, so that git-lfs starts this very program, by its ' +
        'absolute path, as its transfer agent: also from hooks, graphical clients and CI with another PATH. Changes ' +
        'nothing when all is in place. Run it again when timone or Node has moved, as after an upgrade. ' +
        'With --standalone git-lfs asks no server: objects go straight to the bucket of git config timone.bucket.',
    ).option('--standalone', 'without a server: straight to the bucket of timone.bucket'),
    [
      ['timone install', 'for you, in every repository'],
      ['timone install --local', 'in this repository only'],
      ['timone install --local --standalone', 'in this repository, without a server'],
      ['sudo timone install --system', 'for every user, as on a build machine'],
    ],
  )
  examples(
    add(
      'uninstall',
      'undo timone install',
      'Removes what timone install wrote, and nothing else. git-lfs then transfers by itself, from the same server.',
    ),
    [
      ['timone uninstall', 'for you'],
      ['timone uninstall --local', 'in this repository only'],
    ],
  )
}

function addInit(root: Command, io: Io, done: Done): void {
  const command = root
    .command('init')
    .summary("say where a repository's objects live")
    .description(
      'Writes .lfsconfig at the top of the work tree: lfs.url, and lfs.locksverify so that locks count. Commit it, and ' +
        'everyone who clones has it. Asks the server first whether it is there, and writes nothing when it is not. ' +
        'User name and password do not belong into the address: git asks for them and keeps them.',
    )
    .addArgument(new Argument('<url>', 'https://host/org/repo; /info/lfs is added'))
    .option('--no-check', 'do not ask the server')
    .action(async (url: string, options: { check: boolean }) => {
      const { init } = await import('./init.ts')
      done(await init(url, options, io))
    })
  examples(command, [
    ['timone init https://lfs.example.com/foo/bar', 'objects of repository foo/bar'],
    ['timone init http://127.0.0.1:8000/foo/bar', 'a server on this machine'],
  ])
}

function addTransfers(root: Command, io: Io, done: Done): void {
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

function addToken(root: Command, io: Io, done: Done): void {
  const token = root
    .command('token')
    .summary('make tokens and look into them')
    .description(
      "Makes tokens that people and runners sign in with, and looks into them. For the server's operator.",
    )
  const secret = (command: Command): Command =>
    command
      .option(
        '--data <dir>',
        "the server's data folder, which holds the generated secret (default: ./timone-data)",
      )
      .option('--config <file>', "the server's TOML file")
      .option('--json', 'print as JSON')

  const create = secret(
    token
      .command('create')
      .summary('print a new token')
      .description(
        "Prints a token, signed with the server's secret: TIMONE_TOKEN_SECRET, or from --config or --data. It is the " +
          'password that goes with the user name when git asks. A token cannot be taken back, so give it an end.',
      )
      .option('--user <name>', 'whom the token is for (required)')
      .option(
        '--scope <scope>',
        'what it opens, lfs:<org>/<repo>:<r|rw>, where a name may be *; may be repeated (default: every repository)',
        (scope: string, scopes: string[] | undefined) => [...(scopes ?? []), scope],
      )
      .option('--expires <time>', 'how long it is good: 3600, 90m, 12h, 30d (default: for ever)')
      .option(
        '--client <origin>',
        'a remoteStorage app that the token is for; scopes then read <module>:<r|rw>',
      ),
  ).action(async (options) => {
    if (options.client !== undefined) {
      const { createAppToken } = await import('./app-token.ts')
      return done(
        await createAppToken({ ...options, client: options.client, json: options.json ?? false }, io),
      )
    }
    const { createToken } = await import('./token.ts')
    done(await createToken({ ...options, json: options.json ?? false }, io))
  })
  examples(create, [
    [
      'timone token create --user bob --scope lfs:foo/bar:rw --expires 30d',
      'bob may push to foo/bar for a month',
    ],
    ['timone token create --user ci --scope "lfs:foo/*:r" --expires 1h', 'a runner may fetch all of foo'],
    [
      'timone token create --user bob --client https://app.example --scope photos:rw',
      "an app may use the photos in bob's storage",
    ],
  ])

  const inspect = secret(
    token
      .command('inspect')
      .summary('print what is in a token')
      .description(
        'Prints the header and claims of a token, when it expires, and, where the secret is known, whether the server ' +
          'would accept it. Exit code 1 when it would not. Reads the token from stdin, so that it need not appear in ' +
          'the list of processes or the history of the shell.',
      )
      .addArgument(new Argument('[token]', 'the token; - or nothing: read it from stdin')),
  ).action(async (text: string | undefined, options) => {
    const { inspectToken } = await import('./token.ts')
    done(await inspectToken(text, { ...options, json: options.json ?? false }, io))
  })
  examples(inspect, [
    ['timone token inspect < token.txt', 'when does it expire?'],
    ['timone token create --user bob 2>/dev/null | timone token inspect -', 'what does a new one look like?'],
  ])
  examples(token, [
    ['timone token create --user bob --scope lfs:foo/bar:rw --expires 30d', ''],
    ['timone token inspect < token.txt', ''],
  ])
}

function addUploads(root: Command, io: Io, done: Done): void {
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

function addConfig(root: Command, io: Io, done: Done): void {
  const command = root
    .command('config')
    .summary("print the server's settings and where each came from")
    .description(
      'Prints every setting that timone serve would start with, and where it came from: the environment, the file or ' +
        'the default. Secrets are masked. Complains as the server would.',
    )
    .option('--config <file>', 'TOML file with settings')
    .option('--data <dir>', "folder for the server's own files (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (options) => {
      const { showConfig } = await import('./config.ts')
      done(await showConfig({ ...options, json: options.json ?? false }, io))
    })
  examples(command, [
    ['timone config --config /etc/timone.toml', 'check a file before a restart'],
    ['timone config --json | jq -r \'."server.url".value\'', 'for scripts'],
  ])
}

function addCache(root: Command, io: Io, done: Done): void {
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

function addCompletion(root: Command, io: Io, done: Done): void {
  const command = root
    .command('completion')
    .summary('print a completion script for a shell')
    .description('Prints a script that teaches a shell to complete the commands and options of timone.')
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash', 'zsh', 'fish']))
    .action(async (shell: 'bash' | 'zsh' | 'fish') => {
      const { completionScript } = await import('./completion.ts')
      io.stdout.write(completionScript(shell, root))
      done(0)
    })
  examples(command, [
    ['eval "$(timone completion bash)"', 'in ~/.bashrc'],
    ['eval "$(timone completion zsh)"', 'in ~/.zshrc, after compinit'],
    ['timone completion fish > ~/.config/fish/completions/timone.fish', 'once'],
  ])
}
