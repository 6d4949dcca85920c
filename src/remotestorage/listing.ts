import { typeTag } from './change.ts'
import { type Folder, factsOf, isFolder, nameOf, oidOf } from './folder.ts'
import { fromGitName } from './names.ts'

export const LISTING_TYPE = 'application/ld+json'
const CONTEXT = 'http://remotestorage.io/spec/folder-description'

/** Items of a piece. */
const PIECE = 250

/**
 * A folder's description (draft-dejong-remotestorage-26, section 4): documents with tag, type, length and time, folders
 * with their tag; tags without quotes. It comes in pieces, for a folder may hold tens of thousands of documents.
 */
export function* printListing(folder: Folder): Generator<string> {
  const printType = typePrinter()
  yield `{"@context":"${CONTEXT}","items":{`
  for (let at = 0, comma = ''; at < folder.entries.length; at += PIECE) {
    // Joined at once: strings that are put together bit by bit cost twice as much.
    const parts: (string | number)[] = []
    for (const entry of folder.entries.slice(at, at + PIECE)) {
      const folderEntry = isFolder(entry)
      if (!folderEntry && entry.line === undefined) continue
      const name = fromGitName(nameOf(entry))
      parts.push(comma, JSON.stringify(folderEntry ? `${name}/` : name), ':{"ETag":"', oidOf(entry))
      comma = ','
      if (folderEntry) {
        parts.push('"}')
        continue
      }
      const { type, length, modified } = factsOf(entry)
      const time = new Date(modified).toUTCString()
      parts.push(printType(type), length, ',"Last-Modified":"', time, '"}')
    }
    yield parts.join('')
  }
  yield '}}'
}

/** What stands between the blob's id and the length; neighbours mostly have the same type. */
function typePrinter(): (type: string) => string {
  let last: string | undefined
  let text = ''
  return (type) => {
    if (type !== last) {
      last = type
      text = `.${typeTag(type)}","Content-Type":${JSON.stringify(type)},"Content-Length":`
    }
    return text
  }
}
