// A plugin of Haraka's: keeps what it gets, each message a file, and beside it a line of JSON about it; refuses whom and what the tests say
// (sink.json beside the configuration).
const fs = require('fs')
const path = require('path')

let told

exports.register = function () {
  told = this.config.get('sink.json')
}

exports.hook_mail = (next) => next(OK)

exports.hook_rcpt = (next, connection, params) => {
  const unknown = address(params[0]) === told.unknown
  next(unknown ? DENY : OK, unknown ? '5.1.1 nobody of that name' : undefined)
}

exports.hook_data_post = (next, connection) => {
  const unwanted = connection.transaction.header.get('Subject').trim() === told.unwanted
  next(unwanted ? DENY : CONT, unwanted ? '5.7.1 not wanted here' : undefined)
}

const keep = (next, connection) => {
  const { uuid, mail_from, rcpt_to, message_stream } = connection.transaction
  const file = path.join(told.folder, uuid)
  const about = {
    sender: address(mail_from),
    recipients: rcpt_to.map(address),
    tls: connection.tls.enabled ? connection.tls.cipher.version : null,
    user: connection.notes.auth_user || null,
  }
  const out = fs.createWriteStream(`${file}.eml`)
  out.on('error', (error) => next(DENYSOFT, error.message))
  out.on('close', () => {
    fs.writeFileSync(`${file}.tmp`, JSON.stringify(about))
    fs.renameSync(`${file}.tmp`, `${file}.json`)
    next(OK, 'taken')
  })
  message_stream.pipe(out)
}

exports.hook_queue = keep
exports.hook_queue_outbound = keep // of who has logged in

// A method in older versions of Haraka, a property in newer ones.
const address = (path) => (typeof path.address === 'function' ? path.address() : path.address)
