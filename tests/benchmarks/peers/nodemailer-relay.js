// argv: listen port, upstream port, TLS mode (none, starttls, implicit: on both legs), certificate, key
const fs = require('fs')
const { SMTPServer } = require('smtp-server')
const SMTPConnection = require('nodemailer/lib/smtp-connection')
const [lport, uport, mode, cert, key] = process.argv.slice(2)
const up = new Map() // session id -> promise of an upstream connection
function upstream(session) {
  if (!up.has(session.id)) {
    const c = new SMTPConnection({
      host: '127.0.0.1', port: +uport, secure: mode === 'implicit', requireTLS: mode === 'starttls', ignoreTLS: mode === 'none',
      tls: { rejectUnauthorized: false }, socketTimeout: 300000,
    })
    up.set(session.id, new Promise((ok, fail) => { c.once('error', fail); c.connect(() => { c.removeListener('error', fail); c.on('error', () => {}); ok(c) }) }))
  }
  return up.get(session.id)
}
const server = new SMTPServer({
  secure: mode === 'implicit', authOptional: true, disableReverseLookup: true, logger: false, name: 'relay.test', socketTimeout: 300000,
  disabledCommands: mode === 'starttls' ? ['AUTH'] : ['AUTH', 'STARTTLS'], size: 2 ** 30, maxClients: Infinity, closeTimeout: 1000,
  ...(mode === 'none' ? {} : { cert: fs.readFileSync(cert), key: fs.readFileSync(key) }),
  onMailFrom(addr, session, cb) { upstream(session).then(() => cb(), cb) },
  onData(stream, session, cb) {
    upstream(session).then((c) => c.send({ from: session.envelope.mailFrom.address, to: session.envelope.rcptTo.map((r) => r.address) }, stream,
      (err) => (err ? (stream.resume(), cb(err)) : cb(null, 'accepted'))), (e) => { stream.resume(); cb(e) })
  },
  onClose(session) { const p = up.get(session.id); up.delete(session.id); if (p) p.then((c) => c.quit(), () => {}) },
})
server.on('error', () => {})
server.listen({ port: +lport, host: '127.0.0.1', backlog: 4096 })
